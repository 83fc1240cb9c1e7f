//! Names that become parts of keys, device names and command output, checked once where they enter.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::checked_text;

const NAME_RULE: &str = "use 1 to 63 of a-z A-Z 0-9 . _ - and begin with a letter or digit";
const INTERFACE_RULE: &str = "use 1 to 15 letters, digits, . _ -";

/// A text that cannot be a name, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl NameError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }

    /// What a valid one looks like.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        self.rule
    }
}

checked_text!(
    /// A network's name.
    NetworkName, NameError, |text| check("network name", text, is_name, NAME_RULE)
);
checked_text!(
    /// A node's name.
    NodeName, NameError, |text| check("node name", text, is_name, NAME_RULE)
);
checked_text!(
    /// The name of a network interface, as Linux accepts it.
    InterfaceName, NameError, |text| check("interface name", text, is_interface_name, INTERFACE_RULE)
);

macro_rules! identity {
    ($(#[$doc:meta])+ $type:ident, $what:literal) => {
        $(#[$doc])+
        ///
        /// 48 bits, written as 12 hexadecimal digits, unique in its cluster. A number and not a text: there may be
        /// millions of them.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(u64);

        impl $type {
            /// A new identity from random bytes.
            #[must_use]
            pub fn random() -> Self {
                Self(rand::random::<u64>() >> 16)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let digits = text.len() == 12 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
                let number = if digits { u64::from_str_radix(text, 16).ok() } else { None };
                number.map(Self).ok_or_else(|| NameError::new($what, text, "it has 12 digits of 0-9 a-f"))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{:012x}", self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}

identity!(
    /// An endpoint's identity.
    EndpointId, "endpoint id"
);
identity!(
    /// The identity of a subnet that Docker was given, first without a network and then as its network's.
    PoolId, "pool id"
);

impl EndpointId {
    /// The identity before all others.
    pub(super) const fn least() -> Self {
        Self(0)
    }

    /// Name of the host side interface of this endpoint on its node: `ov` and the identity, 14 of
    /// the 15 characters Linux allows.
    #[must_use]
    pub fn host_device(&self) -> String {
        format!("ov{self}")
    }

    /// The inverse of [`Self::host_device`].
    #[must_use]
    pub fn of_host_device(name: &str) -> Option<Self> {
        name.strip_prefix("ov")?.parse().ok().filter(|id: &Self| id.host_device() == name)
    }

    /// Name of the other end while that is in the host's namespace too: `ovp` and as much of the identity as
    /// makes 14 characters.
    #[must_use]
    pub fn peer_device(&self) -> String {
        format!("ovp{:.11}", self.to_string())
    }

    /// Whether it, as it is written, begins with `text`.
    #[must_use]
    pub fn starts_with(&self, text: &str) -> bool {
        self.to_string().starts_with(text)
    }
}

fn check(
    what: &'static str,
    text: &str,
    is_valid: fn(&str) -> bool,
    rule: &'static str,
) -> Result<(), NameError> {
    if is_valid(text) { Ok(()) } else { Err(NameError::new(what, text, rule)) }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// What `dev_valid_name` in the kernel's net/core/dev.c takes.
fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.chars().all(|c| c.is_ascii_graphic() && !"/:%".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_out_of_a_key_are_refused() {
        for bad in ["", "a/b", "../x", "-a", ".a", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
        for good in ["a", "my-net", "node1.example.com", "A_b", &"a".repeat(63)] {
            assert!(good.parse::<NetworkName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn interface_names_are_those_linux_takes() {
        for bad in ["", ".", "..", "a/b", "a:1", "a b", "eth%d", "é", "eth0\n", "sixteen-letters-"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
        for good in ["eth0", "enp3s0f1np1", "br-0.100", "fifteen-letters"] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_endpoint_names_a_device_linux_accepts() {
        let id = EndpointId::random();
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(id.host_device().len(), 14);
        let id: EndpointId = "0123456789ab".parse().unwrap();
        assert_eq!(id.peer_device(), "ovp0123456789a");
        assert_eq!(EndpointId::of_host_device(&id.peer_device()), None);
    }
}
