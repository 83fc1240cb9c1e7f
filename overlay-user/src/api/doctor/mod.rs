//! `overlayctl doctor`: whether what is agrees with what should be, from the store to the kernel.

mod etcd;
mod host;
mod records;
mod sockets;

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State as Shared};
use serde::{Deserialize, Serialize};

use super::{Context, request::Body};
use crate::{
    daemon::Membership,
    datapath::Differences,
    state::State,
    store::{Examined, StoreHealth},
};

/// How long the store may take to be read: in pages, each with a deadline of its own.
const STORE_PATIENCE: Duration = Duration::from_mins(1);

/// Asks for an examination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Examine {
    /// What can be repaired is to be, and then looked at again.
    pub fix: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is wrong, the worst first; empty if nothing is.
    pub findings: Vec<Finding>,
    /// What was wrong before it was repaired.
    pub fixed: Vec<Finding>,
    /// What is as it is, and good to know.
    pub notes: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub area: Area,
    /// What is wrong.
    pub what: String,
    /// Why, as far as it can be told.
    pub cause: String,
    /// What to do about it: a command, where there is one.
    pub cure: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Packets are lost or go astray, or what is written is not what is.
    Error,
    /// Nothing is lost yet.
    Warning,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The store, and what was read of it.
    Store,
    /// This node's part in the cluster.
    Node,
    /// The data path and what the kernel has of it.
    Datapath,
    /// The host: its uplink, other programs and devices.
    Host,
}

impl Finding {
    fn error(area: Area, what: impl Into<String>, cause: impl Into<String>, cure: impl Into<String>) -> Self {
        let (what, cause, cure) = (what.into(), cause.into(), cure.into());
        Self { severity: Severity::Error, area, what, cause, cure }
    }

    fn warning(
        area: Area,
        what: impl Into<String>,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(area, what, cause, cure) }
    }
}

pub async fn examine(
    Shared(context): Shared<Arc<Context>>,
    Body(Examine { fix }): Body<Examine>,
) -> Json<Report> {
    let mut report = look(&context, false).await;
    if fix && !report.findings.is_empty() {
        let before = report.findings;
        context.store.read_again();
        report = look(&context, true).await;
        report.fixed = before.into_iter().filter(|finding| !report.findings.contains(finding)).collect();
    }
    Json(report)
}

/// Looks at everything; with `repair`, after the data path was brought to its plan once more.
async fn look(context: &Context, repair: bool) -> Report {
    let mut findings = Vec::new();
    // The data path first: what it repairs is then there to be seen by the others.
    match context.audit(repair).await {
        Ok(differences) => findings.extend(of_differences(&differences)),
        Err(why) => findings.push(Finding::error(
            Area::Datapath,
            "the kernel cannot be compared with the plan",
            why,
            "overlayctl status",
        )),
    }
    findings.extend(of_progress(context));
    findings.extend(of_membership(context));
    findings.extend(context.store.awaited().iter().map(|node| {
        Finding::warning(
            Area::Node,
            format!("{node} has not written its records into the store"),
            "the store was lost, and what was known of it before stands",
            format!("overlayctl repair --republish (on {node}), or overlayctl node rm {node}"),
        )
    }));
    let examined = match tokio::time::timeout(STORE_PATIENCE, context.store.examine()).await {
        Ok(Ok(examined)) => Some(examined),
        Ok(Err(error)) => {
            findings.push(store_away(&error.to_string()));
            None
        }
        Err(_) => {
            findings.push(store_away("it was not read within a minute"));
            None
        }
    };
    findings.extend(of_health(context, examined.is_some()));
    if let Some(examined) = &examined {
        findings.extend(of_allocation(context, examined));
        findings.extend(records::compare(context, &examined.state).await);
        findings.extend(etcd::look(context).await);
    }
    let (of_host, notes) = host::look(context, examined.as_ref()).await;
    findings.extend(of_host);
    findings.sort();
    findings.dedup();
    Report { findings, fixed: Vec::new(), notes }
}

fn of_differences(differences: &Differences) -> Vec<Finding> {
    let cause = "somebody else changed it, or the last change is not done yet";
    let cure = "overlayctl doctor --fix";
    let mut findings: Vec<_> = differences
        .named
        .iter()
        .map(|difference| Finding::error(Area::Datapath, difference.to_string(), cause, cure))
        .collect();
    if differences.more > 0 {
        let what = format!("{} more rows or objects of the kernel are not as planned", differences.more);
        findings.push(Finding::error(Area::Datapath, what, cause, cure));
    }
    findings
}

/// What the data path could not do at its last attempt; the texts name cause and cure.
fn of_progress(context: &Context) -> Vec<Finding> {
    let progress = context.progress.borrow();
    let (cause, cure) =
        ("the data path could not do it", "as it says; `overlayctl doctor --fix` tries again");
    let mut findings: Vec<_> = progress
        .problems
        .iter()
        .map(|problem| Finding::error(Area::Datapath, problem, cause, cure))
        .collect();
    if let Some(error) = &progress.last_error {
        findings.push(Finding::error(
            Area::Datapath,
            "the data path could not be brought up to date",
            error,
            cure,
        ));
    } else if progress.applied.is_none() {
        findings.push(Finding::error(
            Area::Datapath,
            "nothing is forwarded yet",
            "no state was read",
            "start etcd, or correct --etcd",
        ));
    }
    findings
}

fn of_membership(context: &Context) -> Option<Finding> {
    match &*context.membership.borrow() {
        Membership::Joined(_) => None,
        Membership::Joining(why) => Some(Finding::error(
            Area::Node,
            format!("{} is not in the cluster", context.node),
            why.as_deref().unwrap_or("joining is under way"),
            "overlayctl status --wait 10",
        )),
    }
}

fn store_away(why: &str) -> Finding {
    Finding::error(
        Area::Store,
        "etcd does not answer, so it cannot be compared with what is forwarded",
        why,
        "start etcd, or correct --etcd and restart overlayd; forwarding goes on meanwhile",
    )
}

fn of_health(context: &Context, answers: bool) -> Option<Finding> {
    let followed = context.followed.borrow();
    match &followed.health {
        StoreHealth::Synced => None,
        StoreHealth::Frozen(why) => Some(Finding::error(
            Area::Store,
            "the store is not the one that was followed: nothing of it is applied",
            why,
            "restore etcd's newest snapshot, or `overlayctl repair --republish` on every node",
        )),
        // That it does not answer was said.
        StoreHealth::Connecting(_) | StoreHealth::Lost(_) if !answers => None,
        StoreHealth::Connecting(why) => Some(Finding::error(
            Area::Store,
            "the store was not read yet",
            why.as_deref().unwrap_or("it is being connected to"),
            "overlayctl status --wait 10",
        )),
        StoreHealth::Lost(why) => Some(Finding::error(
            Area::Store,
            "the store is not followed at the moment",
            why,
            "overlayctl status --wait 10",
        )),
    }
}

/// What of allocation does not fit the records, and which records are left out.
fn of_allocation(context: &Context, examined: &Examined) -> Vec<Finding> {
    let flaws = examined.flaws.iter().map(|flaw| {
        Finding::error(
            Area::Store,
            &flaw.what,
            "a record was removed or written by hand, or lost",
            &flaw.cure,
        )
    });
    let State { rejected, rejected_more, .. } = &examined.state;
    let prefix = format!("/overlay/v1/{}/", context.cluster);
    let left_out = rejected.iter().map(|(key, why)| {
        let what = format!("the record {key} is left out");
        Finding::warning(Area::Store, what, why, format!("correct it, or `etcdctl del {prefix}{key}`"))
    });
    let more = (*rejected_more > 0).then(|| {
        let what = format!("{rejected_more} more records are left out");
        Finding::warning(Area::Store, what, "they do not hold up", "overlayctl status")
    });
    flaws.chain(left_out).chain(more).collect()
}
