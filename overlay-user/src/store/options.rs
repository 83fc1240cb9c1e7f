//! Where the store is and who we are to it.

use std::{fmt, path::PathBuf};

use hyper::Uri;

use super::StoreError;
use crate::state::NetworkName;

/// etcd's port for clients, where a URL has none.
const CLIENT_PORT: u16 = 2379;

/// Where the store is and who we are to it.
#[derive(Clone)]
pub struct StoreOptions {
    /// Client URLs of the members.
    pub endpoints: Vec<String>,
    /// The cluster's name: part of every key.
    pub cluster: String,
    /// Files of PEM certificates and keys.
    pub tls: Option<TlsFiles>,
    /// etcd user and password.
    pub credentials: Option<(String, String)>,
}

/// Files for TLS to the store.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Authorities to trust.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

// === impl StoreOptions ===

impl StoreOptions {
    /// Checks the options and makes the URLs complete.
    pub(super) fn checked(mut self) -> Result<Self, StoreError> {
        // A cluster's name is bound by the rule for names in keys.
        if let Err(error) = self.cluster.parse::<NetworkName>() {
            let text = error.to_string().replacen("network name", "cluster name", 1);
            return Err(StoreError::Invalid(text));
        }
        let tls = self.tls.is_some();
        self.endpoints = self
            .endpoints
            .iter()
            .map(|url| url.trim())
            .filter(|url| !url.is_empty())
            .map(|url| complete(url, tls))
            .collect::<Result<_, _>>()?;
        if self.endpoints.is_empty() {
            return Err(StoreError::Invalid(
                "no etcd URL was given; give one as http://10.0.0.1:2379".to_owned(),
            ));
        }
        let files = self.tls.iter().flat_map(|TlsFiles { ca, identity }| {
            ca.iter().chain(identity.iter().flat_map(|(certificate, key)| [certificate, key]))
        });
        for file in files {
            if let Err(error) = std::fs::File::open(file) {
                let path = file.display();
                return Err(StoreError::Invalid(format!("cannot read the TLS file {path}: {error}")));
            }
        }
        Ok(self)
    }
}

impl fmt::Debug for StoreOptions {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, cluster, tls, credentials } = self;
        f.debug_struct("StoreOptions")
            .field("endpoints", endpoints)
            .field("cluster", cluster)
            .field("tls", tls)
            .field("user", &credentials.as_ref().map(|(user, _)| user))
            .finish_non_exhaustive()
    }
}

/// A URL with scheme and port.
fn complete(url: &str, tls: bool) -> Result<String, StoreError> {
    let invalid = |why: &str| StoreError::Invalid(format!("{url:?} is not an etcd URL: {why}"));
    let scheme = if tls { "https" } else { "http" };
    let whole = if url.contains("://") { url.to_owned() } else { format!("{scheme}://{url}") };
    let uri: Uri = whole.parse().map_err(|_| invalid("write it as http://10.0.0.1:2379"))?;
    let scheme = match uri.scheme_str() {
        Some("https") => "https",
        Some("http") if tls => return Err(invalid("TLS files were given, so it must begin with https://")),
        Some("http") => "http",
        _ => return Err(invalid("it must begin with http:// or https://")),
    };
    if uri.path() != "/" || uri.query().is_some() {
        return Err(invalid("it must end after the port"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it names no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("give user and password by their own options"));
    }
    Ok(format!("{scheme}://{host}:{}", uri.port_u16().unwrap_or(CLIENT_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> StoreOptions {
        StoreOptions {
            endpoints: vec![url.to_owned()],
            cluster: "default".to_owned(),
            tls: None,
            credentials: None,
        }
    }

    #[test]
    fn urls_are_completed() {
        for (given, url) in [
            ("http://10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("10.0.0.1", "http://10.0.0.1:2379"),
            ("etcd.example:99", "http://etcd.example:99"),
            (" https://[2001:db8::1]/ ", "https://[2001:db8::1]:2379"),
        ] {
            assert_eq!(options(given).checked().unwrap().endpoints, [url]);
        }
    }

    #[test]
    fn options_that_cannot_be_are_refused_with_a_sentence() {
        for (url, says) in [
            ("", "no etcd URL"),
            ("ftp://a", "must begin with"),
            ("http://a/b", "end after the port"),
            ("http://u:p@a", "their own options"),
            ("http://a b", "is not an etcd URL"),
        ] {
            let error = options(url).checked().unwrap_err().to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
        let bad = StoreOptions { cluster: "a/b".to_owned(), ..options("a") };
        assert!(bad.checked().unwrap_err().to_string().starts_with("cluster name \"a/b\" is not valid"));
        let ca = Some("/nonexistent/ca.pem".into());
        let tls = Some(TlsFiles { ca, identity: None });
        let error = StoreOptions { tls: tls.clone(), ..options("a") }.checked().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
        assert!(StoreOptions { tls, ..options("http://a") }.checked().is_err());
    }

    #[test]
    fn the_password_is_not_shown() {
        let credentials = Some(("user".to_owned(), "hush".to_owned()));
        let shown = format!("{:?}", StoreOptions { credentials, ..options("a") });
        assert!(shown.contains("user") && !shown.contains("hush"), "{shown}");
    }
}
