//! Text of others made fit for a log line and a terminal.

/// Longest text shown, in characters.
const LONGEST: usize = 200;

/// `text` with everything that is not printable escaped, cut to a length that fits a line. What was made fit stays as it
/// is.
#[must_use]
pub fn shown(text: &str) -> String {
    let (mut out, mut length) = (String::new(), 0);
    for c in text.chars() {
        let is_plain = c == '"' || c == '\'' || c == '\\';
        length += if is_plain { 1 } else { c.escape_debug().count() };
        if length > LONGEST {
            out.push('…');
            break;
        }
        if is_plain {
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
    fn what_was_made_fit_stays_as_it_is() {
        for text in ["\x7f".repeat(150), "\x7f".repeat(33) + "abc", "é\n\\".repeat(99), "…".repeat(300)] {
            let once = shown(&text);
            assert!(once.chars().count() <= LONGEST + 1);
            assert_eq!(shown(&once), once);
        }
    }

    #[test]
    fn keys_that_are_not_text_are_shown() {
        assert_eq!(shown_key(b"nodes/\xff\x00"), "nodes/\u{fffd}\\0");
    }
}
