//! Reaching etcd: away, silent, one of several, behind TLS and a password.

use std::time::Duration;

use etcd_client::{Certificate, Identity, Permission, TlsOptions};
use overlay_user::store::{Store, StoreError, StoreHealth, StoreOptions, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
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

#[tokio::test]
async fn user_and_password_are_used_and_asked_for() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("overlay", "hush", None).await.unwrap();
    client.role_add("overlay").await.unwrap();
    let ours = Permission::read_write(PREFIX).with_prefix();
    client.role_grant_permission("overlay", ours).await.unwrap();
    client.user_grant_role("overlay", "overlay").await.unwrap();
    client.auth_enable().await.unwrap();
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
    let flags = vec![
        flag("cert-file", "server.pem"),
        flag("key-file", "server.key"),
        flag("trusted-ca-file", "ca.pem"),
        "--client-cert-auth".to_owned(),
    ];
    etcd.set_tls(tls, flags);
    etcd.restart().await;

    let identity = Some((path("client.pem"), path("client.key")));
    let store = |tls| Store::new(StoreOptions { tls: Some(tls), ..etcd.options() }).unwrap();
    let trusting = store(TlsFiles { ca: Some(path("ca.pem")), identity: identity.clone() });
    trusting.create_network(new_network("blue")).await.unwrap();

    let unknown_server = store(TlsFiles { ca: None, identity });
    let error = unknown_server.create_network(new_network("red")).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
