//! etcd itself: members that do not answer, alarms, space, history, clocks.

use std::time::Duration;

use super::{Area, Finding};
use crate::{
    api::Context,
    store::{Member, MemberStatus},
};

/// Clocks that differ by more confuse whoever reads logs, and end certificates early.
const CLOCKS_AGREE_WITHIN: Duration = Duration::from_secs(5);

/// A database of fewer bytes is not worth making smaller.
const WORTH_DEFRAGMENTING: u64 = 100 << 20;

/// Asks every member. That none answers is told elsewhere.
pub async fn look(context: &Context) -> Vec<Finding> {
    let members = context.store.members().await;
    if members.iter().all(|member| member.answer.is_err()) {
        return Vec::new();
    }
    let mut findings: Vec<_> = members.iter().flat_map(of_member).collect();
    if context.store.is_never_compacted().await {
        findings.push(Finding::warning(
            Area::Store,
            "etcd keeps every change since it was made",
            "it is not compacted, and its database grows until it takes no more",
            "start etcd with --auto-compaction-retention=1h",
        ));
    }
    findings
}

fn of_member(member: &Member) -> Vec<Finding> {
    let url = &member.url;
    let status = match &member.answer {
        Ok(status) => status,
        Err(why) => {
            return vec![Finding::warning(
                Area::Store,
                format!("the etcd member {url} does not answer"),
                why,
                format!("start it, or take it out of --etcd ({url})"),
            )];
        }
    };
    let MemberStatus { has_leader, size, used, quota, errors, alarms } = status;
    let mut findings = Vec::new();
    if !has_leader {
        findings.push(Finding::error(
            Area::Store,
            format!("the etcd member {url} knows no leader"),
            "more than half of the members have to be there",
            "etcdctl endpoint status --cluster",
        ));
    }
    for alarm in alarms {
        let cure = "etcdctl compact, etcdctl defrag, then etcdctl alarm disarm";
        findings.push(Finding::error(
            Area::Store,
            format!("etcd has raised the alarm {alarm}: it takes no changes"),
            "its database is full, or damaged",
            cure,
        ));
    }
    // With an alarm it says the same again.
    for error in errors.iter().filter(|_| alarms.is_empty()) {
        findings.push(Finding::error(
            Area::Store,
            format!("the etcd member {url} reports an error"),
            error,
            "etcdctl endpoint status",
        ));
    }
    let (mib, of) = (size >> 20, quota >> 20);
    if *size > quota / 4 * 3 {
        findings.push(Finding::warning(
            Area::Store,
            format!("the database of the etcd member {url} has {mib} MiB of {of}"),
            "it is full soon, and then takes no changes",
            format!("etcdctl --endpoints {url} defrag, or start etcd with a larger --quota-backend-bytes"),
        ));
    } else if *size > WORTH_DEFRAGMENTING && *used < size / 2 {
        findings.push(Finding::warning(
            Area::Store,
            format!("the database of the etcd member {url} has {mib} MiB and uses less than half of them"),
            "what compaction frees is not given back by itself",
            format!("etcdctl --endpoints {url} defrag"),
        ));
    }
    if let Some(by) = member.clock_differs_by
        && by > CLOCKS_AGREE_WITHIN
    {
        findings.push(Finding::warning(
            Area::Host,
            format!("this host's clock and that of the etcd member {url} differ by {} s", by.as_secs()),
            "one of the two is not kept by NTP",
            "timedatectl set-ntp true",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: MemberStatus, clock: Option<Duration>) -> Vec<String> {
        let member = Member { url: "http://e:2379".into(), answer: Ok(status), clock_differs_by: clock };
        of_member(&member).into_iter().map(|finding| finding.what).collect()
    }

    fn well() -> MemberStatus {
        MemberStatus {
            has_leader: true,
            size: 30 << 20,
            used: 1 << 20,
            quota: 2 << 30,
            ..MemberStatus::default()
        }
    }

    #[test]
    fn a_member_that_is_well_is_no_finding() {
        assert_eq!(said(well(), Some(Duration::from_secs(1))), Vec::<String>::new());
    }

    #[test]
    fn what_a_member_suffers_from_is_named() {
        for (status, clock, says) in [
            (MemberStatus { has_leader: false, ..well() }, None, "knows no leader"),
            (
                MemberStatus {
                    alarms: vec!["NOSPACE"],
                    errors: vec!["memberID:1 alarm:NOSPACE ".into()],
                    ..well()
                },
                None,
                "alarm NOSPACE",
            ),
            (MemberStatus { errors: vec!["broken".into()], ..well() }, None, "reports an error"),
            (MemberStatus { size: 1800 << 20, used: 1700 << 20, ..well() }, None, "has 1800 MiB of 2048"),
            (MemberStatus { size: 300 << 20, used: 100 << 20, ..well() }, None, "uses less than half"),
            (well(), Some(Duration::from_mins(1)), "differ by 60 s"),
        ] {
            let said = said(status, clock);
            assert!(said.len() == 1 && said[0].contains(says), "{said:?}");
        }
        let away =
            Member { url: "http://e:2379".into(), answer: Err("refused".into()), clock_differs_by: None };
        assert!(of_member(&away)[0].what.contains("does not answer"));
    }
}
