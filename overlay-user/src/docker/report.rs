//! What an operator has to know of Docker on this node.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::engine::EngineVersion;
use crate::config::Config;

/// A dockerd that was there and stays away for longer than a restart takes is something wrong.
const RESTART: Duration = Duration::from_mins(1);

/// What is to be seen of Docker from elsewhere.
#[derive(Clone, Debug)]
pub struct View {
    /// The socket of its API.
    pub socket: PathBuf,
    /// The socket it finds the driver at.
    pub plugin: PathBuf,
    /// How it is.
    pub report: watch::Receiver<EngineReport>,
}

/// How dockerd is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineReport {
    /// Whether it answers.
    pub reach: Reach,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

/// Whether dockerd answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// There was none yet.
    #[default]
    Never,
    /// It does.
    Reached(EngineVersion),
    /// It does not.
    Away {
        /// Since when.
        since: Instant,
        /// Why.
        why: String,
        /// It has answered before.
        lost: bool,
    },
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A sentence.
    pub text: String,
    /// Containers of this node do not get what they should, until somebody does something.
    pub is_severe: bool,
}

// === impl View ===

impl View {
    /// What will be to be seen, if the settings name a dockerd and a driver, and a place to report it to.
    #[must_use]
    pub fn new(config: &Config) -> (Option<Self>, watch::Sender<EngineReport>) {
        let (sender, report) = watch::channel(EngineReport::default());
        let view = config.docker.as_ref().zip(config.docker_plugin.as_ref());
        let view =
            view.map(|(socket, plugin)| Self { socket: socket.path.clone(), plugin: plugin.clone(), report });
        (view, sender)
    }
}

// === impl EngineReport ===

impl EngineReport {
    /// For what reasons this node is not well.
    #[must_use]
    pub fn severe(&self) -> Vec<String> {
        let problems = self.problems.iter().filter(|problem| problem.is_severe);
        self.lost().into_iter().chain(problems.map(|problem| problem.text.clone())).collect()
    }

    fn lost(&self) -> Option<String> {
        match &self.reach {
            Reach::Away { since, why, lost: true } if since.elapsed() > RESTART => {
                Some(format!("{why} (for {} s)", since.elapsed().as_secs()))
            }
            _ => None,
        }
    }
}

/// Says that dockerd answers. Returns whether it did not before.
pub(super) fn reached(report: &watch::Sender<EngineReport>, version: &EngineVersion) -> bool {
    let mut is_news = false;
    report.send_modify(|report| {
        is_news = !matches!(report.reach, Reach::Reached(_));
        report.reach = Reach::Reached(version.clone());
    });
    is_news
}

/// Says that dockerd does not answer. Returns whether it was not known to be away.
pub(super) fn away(report: &watch::Sender<EngineReport>, why: String) -> bool {
    let mut is_news = false;
    report.send_modify(|report| {
        let (since, lost) = match report.reach {
            Reach::Never => (Instant::now(), false),
            Reach::Reached(_) => (Instant::now(), true),
            Reach::Away { since, lost, .. } => (since, lost),
        };
        is_news = !matches!(report.reach, Reach::Away { .. });
        report.reach = Reach::Away { since, why, lost };
    });
    is_news
}

/// Says what is not as it should be, here and, if it is news, in the log.
pub(super) fn problems(report: &watch::Sender<EngineReport>, problems: Vec<Problem>) {
    report.send_if_modified(|report| {
        for problem in problems.iter().filter(|problem| !report.problems.contains(problem)) {
            tracing::warn!(problem = problem.text, "Docker");
        }
        let is_changed = report.problems != problems;
        report.problems = problems;
        is_changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dockerd_that_was_there_and_does_not_come_back_makes_a_node_unwell() {
        let (report, seen) = watch::channel(EngineReport::default());
        let long_ago = Instant::now().checked_sub(RESTART * 2).unwrap();
        let age = |report: &watch::Sender<EngineReport>| {
            report.send_modify(|report| {
                if let Reach::Away { since, .. } = &mut report.reach {
                    *since = long_ago;
                }
            });
        };
        assert!(away(&report, "no socket".to_owned()));
        assert!(!away(&report, "no socket".to_owned()), "said once");
        age(&report);
        assert_eq!(seen.borrow().severe(), [""; 0], "it may never have been there");

        let version = EngineVersion { engine: "28.5.2".to_owned(), api: "1.51".to_owned() };
        assert!(reached(&report, &version));
        assert!(!reached(&report, &version));
        assert!(away(&report, "nobody listens".to_owned()));
        assert_eq!(seen.borrow().severe(), [""; 0], "it may be restarting");
        age(&report);
        let severe = seen.borrow().severe();
        assert!(severe.len() == 1 && severe[0].starts_with("nobody listens (for 12"), "{severe:?}");
    }

    #[test]
    fn of_the_problems_the_severe_ones_make_a_node_unwell() {
        let (report, seen) = watch::channel(EngineReport::default());
        let problem = |text: &str, is_severe| Problem { text: text.to_owned(), is_severe };
        problems(&report, vec![problem("a", false), problem("b", true)]);
        assert_eq!(seen.borrow().severe(), ["b"]);
        problems(&report, Vec::new());
        assert_eq!(seen.borrow().severe(), [""; 0]);
    }
}
