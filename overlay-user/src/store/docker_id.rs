//! Under which identity Docker has a network, where all nodes' Dockers have the same.

use std::ops::ControlFlow;

use super::{Store, StoreError};
use crate::state::NetworkName;

impl Store {
    /// Notes that Docker has a network under the identity `now`, if it has `before` until now. Returns whether it is
    /// noted: if not, another node has made it meanwhile.
    pub async fn set_docker_id(
        &self,
        name: &NetworkName,
        before: Option<&str>,
        now: &str,
    ) -> Result<bool, StoreError> {
        self.change_network(name, |record| {
            if record.docker.as_deref() != before {
                return Ok(ControlFlow::Break(record.docker.as_deref() == Some(now)));
            }
            record.docker = Some(now.to_owned());
            Ok(ControlFlow::Continue(true))
        })
        .await
    }
}
