//! Text of others made fit for a log line and a terminal.

/// Longest text shown, in characters.
const LONGEST: usize = 200;

/// `text` with everything that is not printable escaped, cut to a length that fits a line.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            out.push('…');
            break;
        }
        if c == '"' || c == '\'' || c == '\\' {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out
}

/// A key as it is named to people; keys are bytes and need not be text.
#[must_use]
pub fn shown_key(key: &[u8]) -> String {
    shown(&String::from_utf8_lossy(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_do_not_reach_a_terminal() {
        assert_eq!(shown("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(shown("say \"it's\""), "say \"it's\"");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn keys_that_are_not_text_are_shown() {
        assert_eq!(shown_key(b"nodes/\xff\x00"), "nodes/\u{fffd}\\0");
    }
}
