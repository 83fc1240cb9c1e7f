//! Reaching etcd: away, silent, one of several, behind TLS and a password.

use std::time::Duration;

use etcd_client::{Certificate, Identity, Permission, TlsOptions};
use overlay_user::store::{Store, StoreError, StoreHealth, StoreOptions, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::etcd::*;

#[tokio::test]
async fn an_etcd_that_is_away_is_told_in_time() {
    let etcd = Etcd::unstarted();
    let begun = Instant::now();
    let error = etcd.store().create_network(new_network("blue")).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let text = error.to_string();
    assert!(text.contains(&format!("etcd is unreachable: {}", etcd.url())), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert!(text.contains("running endpoints are not affected"), "{text}");
}

#[tokio::test]
async fn a_member_that_is_away_is_passed_over() {
    let (etcd, away) = (Etcd::start().await, Etcd::unstarted());
    let mut options = etcd.options();
    options.endpoints.insert(0, away.url());
    let store = Store::new(options).unwrap();
    let begun = Instant::now();
    store.create_network(new_network("blue")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// An etcd that is reached by TLS, and the directory with `ca.pem`, and `client.pem` and its key.
async fn etcd_with_tls(more: &[&str]) -> (Etcd, TempDir) {
    let mut etcd = Etcd::unstarted();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(path("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([etcd.ip().to_string()]).unwrap();
        std::fs::write(path(&format!("{name}.pem")), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(text("ca.pem")))
        .identity(Identity::from_pem(text("client.pem"), text("client.key")));
    let flag = |flag: &str, name: &str| format!("--{flag}={}", path(name).display());
    let mut flags = vec![
        flag("cert-file", "server.pem"),
        flag("key-file", "server.key"),
        flag("trusted-ca-file", "ca.pem"),
    ];
    flags.extend(more.iter().map(|&flag| flag.to_owned()));
    etcd.set_tls(tls, flags);
    etcd.restart().await;
    (etcd, dir)
}

/// Has etcd ask for a password: `overlay` with `hush` may do what overlayd needs to, and no more.
async fn ask_for_a_password(etcd: &Etcd) {
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("overlay", "hush", None).await.unwrap();
    client.role_add("overlay").await.unwrap();
    let ours = Permission::read_write(PREFIX).with_prefix();
    client.role_grant_permission("overlay", ours).await.unwrap();
    client.user_grant_role("overlay", "overlay").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test]
async fn tls_and_a_password_are_used_together() {
    let (etcd, dir) = etcd_with_tls(&[]).await;
    ask_for_a_password(&etcd).await;
    let store = |password: &str| {
        // An etcd that is given authorities asks for a certificate, whether or not it tells users by it.
        let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|name| dir.path().join(name));
        let tls = Some(TlsFiles { ca: Some(ca), identity: Some((certificate, key)) });
        let credentials = Some(("overlay".to_owned(), password.to_owned()));
        Store::new(StoreOptions { tls, credentials, ..etcd.options() }).unwrap()
    };
    let ours = store("hush");
    ours.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let mut followed = ours.follow(CancellationToken::new());
    until(&mut followed, "the node", |f| f.state.nodes.len() == 1).await;
    ours.create_network(new_network("blue")).await.unwrap();
    until(&mut followed, "the network", |f| f.state.networks.len() == 1).await;
    let (_, record) = attach(&ours, "blue", "node1", "web", None).await;
    assert_eq!(record.addresses.len(), 1);
    until(&mut followed, "the endpoint", |f| f.state.endpoints.len() == 1).await;
    let error = store("wrong").create_network(new_network("red")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("user and password")), "{error:?}");
}

#[tokio::test]
async fn user_and_password_are_used_and_asked_for() {
    let etcd = Etcd::start().await;
    ask_for_a_password(&etcd).await;
    let store = |credentials: Option<(&str, &str)>, cluster: &str| {
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Store::new(StoreOptions { credentials, cluster: cluster.to_owned(), ..etcd.options() }).unwrap()
    };
    let ours = store(Some(("overlay", "hush")), "default");
    ours.create_network(new_network("blue")).await.unwrap();
    let mut followed = ours.follow(CancellationToken::new());
    until(&mut followed, "the network", |f| f.state.networks.len() == 1).await;

    for (credentials, cluster, says) in [
        (None, "default", "give an etcd user"),
        (Some(("overlay", "wrong")), "default", "check the etcd user and password"),
        (Some(("overlay", "hush")), "other", "permission denied"),
    ] {
        let error = store(credentials, cluster).create_network(new_network("red")).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(says)), "{error:?}");
    }
    let mut refused = store(None, "default").follow(CancellationToken::new());
    until(
        &mut refused,
        "the reason",
        |f| matches!(&f.health, StoreHealth::Connecting(Some(why)) if why.contains("give an etcd user")),
    )
    .await;
}

#[tokio::test]
async fn tls_is_used_with_certificates_of_both_sides() {
    let (etcd, dir) = etcd_with_tls(&["--client-cert-auth"]).await;
    let path = |name: &str| dir.path().join(name);
    let identity = Some((path("client.pem"), path("client.key")));
    let store = |tls| Store::new(StoreOptions { tls: Some(tls), ..etcd.options() }).unwrap();
    let trusting = store(TlsFiles { ca: Some(path("ca.pem")), identity: identity.clone() });
    trusting.create_network(new_network("blue")).await.unwrap();

    let unknown_server = store(TlsFiles { ca: None, identity });
    let error = unknown_server.create_network(new_network("red")).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
