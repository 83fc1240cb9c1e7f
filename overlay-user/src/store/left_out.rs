//! Records that are left out, in the log: each is named once, however often it changes.

use std::{collections::BTreeMap, mem, time::Duration};

use tokio::time::Instant;

/// Most lines in one [`WINDOW`]: whoever writes to the store must not fill the disk with our log.
const MOST: usize = 100;

/// The time that lines are counted in.
const WINDOW: Duration = Duration::from_mins(1);

/// What the log has said.
#[derive(Default)]
pub(super) struct LeftOutLog {
    /// Keys and reasons as they were last.
    named: BTreeMap<String, String>,
    /// When the window began, and how many lines it has.
    window: Option<(Instant, usize)>,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    LeftOut(&'a str, &'a str),
    Stands(&'a str),
    /// There is no room for more.
    Full,
}

// === impl LeftOutLog ===

impl LeftOutLog {
    /// Says what has changed.
    pub fn update(&mut self, rejected: &BTreeMap<String, String>) {
        if self.named == *rejected {
            return;
        }
        let before = mem::replace(&mut self.named, rejected.clone());
        for line in self.lines(&before, rejected) {
            match line {
                Line::LeftOut(key, why) => tracing::warn!(key, why, "a record is left out"),
                Line::Stands(key) => tracing::info!(key, "a record is no longer left out"),
                Line::Full => tracing::warn!("more records are left out: `overlayctl status` names them"),
            }
        }
    }

    /// What there is to say, as far as there is room for it.
    fn lines<'a>(
        &mut self,
        before: &'a BTreeMap<String, String>,
        now: &'a BTreeMap<String, String>,
    ) -> Vec<Line<'a>> {
        let new = now.iter().filter(|&(key, why)| before.get(key) != Some(why));
        let gone = before.keys().filter(|&key| !now.contains_key(key));
        let all = new.map(|(key, why)| Line::LeftOut(key, why)).chain(gone.map(|key| Line::Stands(key)));

        let (begun, said) = self.window.get_or_insert_with(|| (Instant::now(), 0));
        if begun.elapsed() >= WINDOW {
            (*begun, *said) = (Instant::now(), 0);
        }
        let mut lines = Vec::new();
        for line in all {
            match MOST.checked_sub(*said) {
                Some(0) => lines.push(Line::Full),
                Some(_) => lines.push(line),
                None => break,
            }
            *said += 1;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn rejected(records: impl IntoIterator<Item = (String, usize)>) -> BTreeMap<String, String> {
        records.into_iter().map(|(key, why)| (key, why.to_string())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_named_once_and_again_when_it_stands() {
        let mut log = LeftOutLog::default();
        let (none, one) = (rejected([]), rejected([("a".to_owned(), 1)]));
        assert_eq!(log.lines(&none, &one), [Line::LeftOut("a", "1")]);
        assert_eq!(log.lines(&one, &one), []);
        assert_eq!(log.lines(&one, &none), [Line::Stands("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_change_all_the_time_do_not_fill_the_log() {
        let mut log = LeftOutLog::default();
        let mut before = rejected([]);
        let mut said = 0;
        for round in 0..1000 {
            let now = rejected((0..5).map(|n| (format!("junk/{n}"), round)));
            said += log.lines(&before, &now).len();
            before = now;
        }
        assert_eq!(said, MOST + 1);
        advance(WINDOW).await;
        assert_eq!(log.lines(&rejected([]), &before).len(), 5);
    }
}
