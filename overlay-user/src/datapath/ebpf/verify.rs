//! When everything is compared with the kernel, and what becomes of what is found.

use std::{mem, time::Instant};

use super::{
    EbpfDatapath, Extent,
    slow_path::Forwarding,
    stations::Task,
    survey::{Found, Subject, Survey},
};
use crate::{
    datapath::{Applied, Compared, DatapathError, Underlay, vxlan_device::Reconciled},
    plan::Plan,
};

impl EbpfDatapath {
    /// Reads back what somebody else may have changed, and repairs what depends on no plan. What there may be a
    /// million of is read beside everything else, unless it is not known what was left there.
    pub(super) fn verify(&mut self, applied: &mut Applied) -> Result<(), DatapathError> {
        self.tables.reread()?;
        // Links too are what they should be only if looked at again.
        self.attached.clear();
        applied.changed += self.maps.repair(&self.pins, &mut applied.problems);
        applied.changed += self.repair_program_pins(&mut applied.problems);
        self.survey = if self.filled.is_some() { Survey::Wanted } else { Survey::None };
        self.settled = None;
        Ok(())
    }

    /// Whether everything is to be compared with the kernel, one comparison after another.
    pub(super) fn is_unverified(&self, plan: &Plan, extent: Extent) -> bool {
        let Some(compared) = self.verified else { return true };
        if matches!(self.survey, Survey::UnderWay(_)) {
            return false;
        }
        let has_news = || extent == Extent::All && self.filled.as_ref().is_some_and(|filled| filled != plan);
        compared.is_due(self.options.verify_every, has_news)
    }

    /// Begins a survey that is wanted, once all else is done.
    pub(super) fn survey(&mut self, underlay: &Underlay, applied: &mut Applied) {
        let (Survey::Wanted, Some(plan), false) = (&self.survey, &self.filled, applied.unfinished) else {
            return;
        };
        let subject = Subject {
            plan: plan.clone(),
            underlay: underlay.clone(),
            local: self.local.clone(),
            views: self.tables.stations.views(),
            devices: self.slow_path.devices(),
        };
        self.survey = Survey::begin(subject).unwrap_or_else(|error| {
            applied.problems.push(error.to_string());
            Survey::Wanted
        });
    }

    /// Looks at what a survey found, with the maps at `plan`.
    pub(super) async fn recheck(&mut self, plan: &Plan, underlay: &Underlay, applied: &mut Applied) {
        let outcome = match mem::take(&mut self.survey) {
            Survey::Done(outcome) => *outcome,
            other => return self.survey = other,
        };
        self.verified =
            self.verified.map(|compared| Compared { at: Instant::now(), took: compared.took + outcome.took });
        let Found { plan: then, underlay: over, suspects, mut reading } = match outcome.found {
            Ok(found) => found,
            Err(error) => return applied.problems.push(error.to_string()),
        };
        let task = Task { plan, before: None, only_missing: false, same_here: true, local: &self.local };
        applied.changed += self.tables.stations.recheck(&suspects, &task, &mut applied.problems);
        if (&then.vteps, over.addr) != (&plan.vteps, underlay.addr) {
            // Of a node that has moved meanwhile all rows were changed.
            return;
        }
        reading.forget_changed(&then, plan);
        let mut done = Reconciled::default();
        self.slow_path.take(&self.netlink, reading, &mut done).await;
        self.slow_path.flood(Forwarding { plan, underlay });
        applied.changed += done.changed;
        applied.problems.extend(done.problems);
    }
}
