//! dockerd's settings as text: what has to be in it, and the rest as it was.

use std::{fmt, net::Ipv4Addr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

/// The setting for name servers.
pub const DNS: &str = "dns";

/// The setting for containers that outlive dockerd.
pub const LIVE_RESTORE: &str = "live-restore";

/// A JSON object whose fields stay as they are written, and in their order.
#[derive(Debug, Default)]
struct Settings(Vec<(String, Box<RawValue>)>);

/// The settings that are to be, and how they differ from `old`; `None` if they do not. `outlive`: containers are to
/// outlive dockerd.
pub fn changed(old: &str, dns: Ipv4Addr, outlive: bool) -> Result<Option<(String, Vec<String>)>, String> {
    let mut settings = Settings::parse(old)?;
    let mut changes = Vec::new();
    let ours = dns.to_string();
    let servers: Vec<String> = settings.get(DNS, "a list of addresses")?.unwrap_or_default();
    if servers.first() != Some(&ours) {
        let others: Vec<_> = servers.into_iter().filter(|server| *server != ours).collect();
        changes.push(match others.join(", ").as_str() {
            "" => format!("\"{DNS}\" is {ours} now"),
            others => format!("\"{DNS}\" is {ours} now, before {others}"),
        });
        settings.set(DNS, &[vec![ours], others].concat())?;
    }
    let live: Option<bool> = settings.get(LIVE_RESTORE, "true or false")?;
    if outlive && live != Some(true) {
        let before = live.map_or("", |_| " in place of false");
        changes.push(format!(
            "\"{LIVE_RESTORE}\" is true now{before}: containers run on while dockerd restarts"
        ));
        settings.set(LIVE_RESTORE, &true)?;
    }
    Ok((!changes.is_empty()).then(|| (settings.to_string(), changes)))
}

// === impl Settings ===

impl Settings {
    /// What a file says; an empty one says nothing.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn get<'a, T: Deserialize<'a>>(&'a self, name: &str, wanted: &str) -> Result<Option<T>, String> {
        // Of several, dockerd takes the last.
        let Some((_, value)) = self.0.iter().rev().find(|(known, _)| known == name) else { return Ok(None) };
        let value = serde_json::from_str(value.get());
        value.map(Some).map_err(|_| format!("\"{name}\" should be {wanted}"))
    }

    fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), String> {
        let value = to_raw_value(value).map_err(|error| error.to_string())?;
        match self.0.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let before = if index == 0 { "{\n" } else { ",\n" };
            let name = serde_json::to_string(name).map_err(|_| fmt::Error)?;
            write!(f, "{before}  {name}: {}", value.get())?;
        }
        f.write_str("\n}\n")
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Settings, A::Error> {
                let mut settings = Vec::new();
                while let Some(field) = fields.next_entry()? {
                    settings.push(field);
                }
                Ok(Settings(settings))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

    fn set(old: &str) -> (String, Vec<String>) {
        changed(old, OURS, true).unwrap().unwrap()
    }

    #[test]
    fn settings_are_made_where_there_were_none() {
        for empty in ["", " \n", "{}"] {
            let (new, changes) = set(empty);
            assert_eq!(new, "{\n  \"dns\": [\"169.254.53.53\"],\n  \"live-restore\": true\n}\n", "{empty:?}");
            assert_eq!(changes.len(), 2);
            assert_eq!(changed(&new, OURS, true).unwrap(), None, "done once");
        }
    }

    #[test]
    fn all_else_stays_as_it_is_written_and_in_its_order() {
        let old = "{\n  \"log-opts\": {\n    \"max-size\": \"10m\"\n  },\n  \"live-restore\": true,\n  \"bip\": \"10.9.0.1/24\",\n  \
                   \"a\\u0022b\": 1.50\n}\n";
        let (new, changes) = set(old);
        assert_eq!(
            new,
            old.replace("1.50\n}", "1.50,\n  \"dns\": [\"169.254.53.53\"]\n}").replace("\\u0022", "\\\"")
        );
        assert_eq!(changes, ["\"dns\" is 169.254.53.53 now"]);
    }

    #[test]
    fn other_name_servers_come_after_ours() {
        let (new, changes) = set(r#"{"dns":["10.0.0.2","169.254.53.53"],"live-restore":false}"#);
        assert!(new.contains(r#""dns": ["169.254.53.53","10.0.0.2"]"#), "{new}");
        assert_eq!(changes[0], "\"dns\" is 169.254.53.53 now, before 10.0.0.2");
        assert!(changes[1].contains("in place of false"), "{}", changes[1]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (bad, says) in [
            ("{", "EOF"),
            ("[]", "a JSON object"),
            ("{\"a\":1,}", "trailing comma"),
            ("{} x", "trailing characters"),
            (r#"{"dns":"10.0.0.2"}"#, "\"dns\" should be a list of addresses"),
            (r#"{"live-restore":1}"#, "\"live-restore\" should be true or false"),
        ] {
            let error = changed(bad, OURS, true).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn in_a_swarm_containers_end_with_dockerd() {
        let (new, changes) = changed("{}", OURS, false).unwrap().unwrap();
        assert_eq!((new.contains(LIVE_RESTORE), changes.len()), (false, 1));
    }
}
