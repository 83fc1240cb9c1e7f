//! Following the store, against a real etcd and what happens to it.

use std::time::Duration;

use etcd_client::GetOptions;
use overlay_user::{
    state::{EndpointId, RecordSet},
    store::{Followed, Seen, Store, StoreError, StoreHealth, StoreOptions, Vigilance},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{assert_conflict, etcd::*, relay::Relay};

const BLUE: &str = r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1","colour":"unknown"}"#;

fn synced(followed: &Followed) -> bool {
    followed.health == StoreHealth::Synced
}

fn has(followed: &Followed, name: &str) -> bool {
    followed.state.networks.contains_key(&network(name))
}

/// A network record that clashes with no other of another number.
fn numbered(n: u32) -> String {
    format!(r#"{{"vni":{},"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}}"#, n + 1000)
}

/// A store behind a relay.
async fn relayed(etcd: &Etcd) -> (Relay, Store) {
    let relay = Relay::start((etcd.ip(), 2379).into()).await;
    let store = Store::new(StoreOptions { endpoints: vec![relay.url()], ..etcd.options() }).unwrap();
    (relay, store)
}

#[tokio::test]
async fn changes_are_followed() {
    let etcd = Etcd::start().await;
    etcd.put("networks/blue", BLUE).await;
    etcd.put("networks/bad", "{").await;
    let mut followed = etcd.store().follow(CancellationToken::new());
    let first = until(&mut followed, "the first read", synced).await;
    assert!(has(&first, "blue"));
    assert!(first.state.rejected["networks/bad"].contains("EOF"));

    etcd.put("networks/bad", numbered(1)).await;
    let mended = until(&mut followed, "the mended record", |f| has(f, "bad")).await;
    assert!(mended.state.rejected.is_empty() && mended.state.revision > first.state.revision);
    etcd.put("networks/blue", r#"{"vni":"seven"}"#).await;
    until(&mut followed, "the broken record", |f| !has(f, "blue") && has(f, "bad")).await;
    etcd.delete("networks/bad").await;
    until(&mut followed, "the deletion", |f| f.state.networks.is_empty()).await;
}

#[tokio::test]
async fn a_cancelled_follower_ends() {
    let etcd = Etcd::start().await;
    let cancel = CancellationToken::new();
    let mut followed = etcd.store().follow(cancel.clone());
    until(&mut followed, "the first read", synced).await;
    cancel.cancel();
    while tokio::time::timeout(PATIENCE, followed.changed()).await.unwrap().is_ok() {}
}

#[tokio::test]
async fn many_and_large_records_are_read_in_pages() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for chunk in 0..25 {
        let puts: Vec<_> = (0..100)
            .map(|n| n + 100 * chunk)
            .map(|n| etcd_client::TxnOp::put(format!("{PREFIX}networks/n{n}"), numbered(n), None))
            .collect();
        client.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    // The largest value etcd takes, often enough to fill more than one message.
    for n in 0..50 {
        client.put(format!("{PREFIX}networks/large{n}"), vec![b' '; 1_500_000], None).await.unwrap();
    }
    let mut followed = etcd.store().follow(CancellationToken::new());
    let all = until(&mut followed, "all records", synced).await;
    assert_eq!((all.state.networks.len(), all.state.rejected.len()), (2500, 50));
    assert!(all.state.rejected["networks/large7"].contains("1500000 bytes"));
    etcd.put("networks/large7", numbered(9000)).await;
    until(&mut followed, "a change", |f| has(f, "large7")).await;
}

#[tokio::test]
async fn the_state_outlives_etcd_and_follows_on_when_it_is_back() {
    let mut etcd = Etcd::start().await;
    etcd.put("networks/blue", BLUE).await;
    let mut followed = etcd.store().follow(CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    etcd.kill();
    let lost = until(&mut followed, "the loss", |f| matches!(f.health, StoreHealth::Lost(_))).await;
    assert!(has(&lost, "blue"));
    etcd.restart().await;
    until(&mut followed, "the return", synced).await;
    etcd.put("networks/red", numbered(1)).await;
    until(&mut followed, "a change", |f| has(f, "red") && has(f, "blue")).await;
}

#[tokio::test]
async fn etcd_may_come_later() {
    let mut etcd = Etcd::unstarted();
    let mut followed = etcd.store().follow(CancellationToken::new());
    until(
        &mut followed,
        "the reason",
        |f| matches!(&f.health, StoreHealth::Connecting(Some(why)) if why.contains("Connection refused")),
    )
    .await;
    etcd.restart().await;
    until(&mut followed, "the first read", synced).await;
}

#[tokio::test]
async fn deletions_that_were_compacted_away_are_seen() {
    let mut etcd = Etcd::start().await;
    etcd.put("networks/blue", BLUE).await;
    etcd.put("networks/red", numbered(1)).await;
    let mut followed = etcd.store().follow(CancellationToken::new());
    until(&mut followed, "the first read", |f| synced(f) && has(f, "red")).await;
    etcd.kill();
    until(&mut followed, "the loss", |f| !synced(f)).await;

    // Where the follower cannot see it: the same data behind another address.
    let mut elsewhere = Etcd::unstarted();
    std::fs::rename(etcd.data(), elsewhere.data()).unwrap();
    elsewhere.restart().await;
    elsewhere.delete("networks/blue").await;
    for n in 0..50 {
        elsewhere.put("networks/green", numbered(n)).await;
    }
    let mut client = elsewhere.client().await;
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    elsewhere.kill();
    std::fs::rename(elsewhere.data(), etcd.data()).unwrap();
    etcd.restart().await;
    let found = until(&mut followed, "the new state", |f| synced(f) && has(f, "green")).await;
    assert!(has(&found, "red") && !has(&found, "blue"));
}

#[tokio::test]
async fn a_wiped_etcd_freezes_the_state() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    etcd.put("networks/blue", BLUE).await;
    let mut followed = store.follow(CancellationToken::new());
    until(&mut followed, "the first read", |f| synced(f) && has(f, "blue")).await;
    etcd.wipe().await;
    let frozen = until(&mut followed, "the freeze", |f| matches!(f.health, StoreHealth::Frozen(_))).await;
    assert!(has(&frozen, "blue"));
    let StoreHealth::Frozen(why) = &frozen.health else { unreachable!() };
    assert!(why.contains("is gone") && why.contains("restart overlayd"), "{why}");

    // Nothing written since is applied, and this node does not make a new cluster of it.
    etcd.put("networks/red", numbered(1)).await;
    assert!(store.join(&node("node1"), node_record("192.0.2.1")).await.is_err());
    assert!(store.create_network(new_network("green")).await.is_err());
    let alive = (store.clone(), CancellationToken::new());
    let (_applied, receiver) = watch::channel(0);
    let staying = tokio::spawn({
        let (store, cancel) = alive.clone();
        async move { store.stay_alive(node("node1"), 1, receiver, cancel).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(followed.borrow().state, frozen.state);
    let left = etcd.client().await.get(PREFIX, Some(GetOptions::new().with_prefix())).await.unwrap();
    let left: Vec<_> = left.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    assert_eq!(left, [format!("{PREFIX}networks/red")]);
    alive.1.cancel();
    staying.await.unwrap();

    // Another cluster in its place is not ours either.
    etcd.store().join(&node("node2"), node_record("192.0.2.2")).await.unwrap();
    until(
        &mut followed,
        "the other cluster",
        |f| matches!(&f.health, StoreHealth::Frozen(why) if why.contains("another cluster")),
    )
    .await;
    assert_eq!(followed.borrow().state, frozen.state);
}

#[tokio::test]
async fn a_cluster_record_that_is_deleted_freezes_until_it_is_back() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let mut followed = store.follow(CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    let meta = etcd.get("meta").await.unwrap();
    etcd.delete("meta").await;
    until(&mut followed, "the freeze", |f| matches!(f.health, StoreHealth::Frozen(_))).await;
    etcd.put("networks/blue", BLUE).await;
    etcd.put("meta", meta).await;
    until(&mut followed, "the thaw", |f| synced(f) && has(f, "blue")).await;
}

#[tokio::test]
async fn an_older_copy_freezes_the_state_and_stays_so() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store();
    store.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let mut followed = store.follow(CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    etcd.kill();
    let copy = tempfile::tempdir().unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").args([etcd.data(), copy.path().join("data")]).status();
    assert!(copied.unwrap().success());
    etcd.restart().await;
    etcd.put("networks/blue", BLUE).await;
    until(&mut followed, "a change", |f| has(f, "blue")).await;
    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    std::fs::rename(copy.path().join("data"), etcd.data()).unwrap();
    etcd.restart().await;
    let frozen = until(&mut followed, "the freeze", |f| matches!(f.health, StoreHealth::Frozen(_))).await;
    assert!(matches!(&frozen.health, StoreHealth::Frozen(why) if why.contains("back in time")));
    // What it has forgotten is still in use: nothing new is given out, nor taken away.
    assert_conflict(store.create_network(new_network("green")).await, "back in time");
    let id = EndpointId::random();
    let reserved = store.reserve_addresses(&network("blue"), &node("node1"), &id, None, &[]).await;
    assert_conflict(reserved, "back in time");
    assert_conflict(store.join(&node("node1"), node_record("192.0.2.1")).await, "back in time");
    for n in 0..10 {
        etcd.put("networks/red", numbered(n)).await;
    }
    // Its revision is beyond what was seen again, its content is not.
    let mut second = store.follow(CancellationToken::new());
    until(&mut second, "the freeze", |f| matches!(f.health, StoreHealth::Frozen(_))).await;
    let now = followed.borrow().clone();
    assert!(matches!(now.health, StoreHealth::Frozen(_)) && has(&now, "blue"), "{now:?}");
}

#[tokio::test]
async fn an_etcd_that_falls_silent_is_told_in_time_and_followed_on() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    store.create_network(new_network("red")).await.unwrap();
    let mut followed = store.follow(CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    // SAFETY: a signal to a process of this test's own.
    unsafe { libc::kill(etcd.pid(), libc::SIGSTOP) };
    let begun = Instant::now();
    let command = async {
        let error = store.create_network(new_network("green")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    };
    let loss = until(&mut followed, "the loss", |f| matches!(f.health, StoreHealth::Lost(_)));
    futures::join!(command, loss);
    // SAFETY: as above.
    unsafe { libc::kill(etcd.pid(), libc::SIGCONT) };
    etcd.put("networks/blue", BLUE).await;
    until(&mut followed, "the return", |f| synced(f) && has(f, "blue")).await;
    store.remove_network(&network("red")).await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_process_saw_counts() {
    let etcd = Etcd::start().await;
    let first = etcd.store();
    first.join(&node("node1"), node_record("192.0.2.1")).await.unwrap();
    let mut followed = first.follow(CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    let seen = first.seen();
    assert!(seen.cluster.is_some() && seen.revision > 0);

    let next = etcd.store();
    next.expect(Seen { revision: seen.revision + 1000, ..seen });
    let mut followed = next.follow(CancellationToken::new());
    let frozen = until(&mut followed, "the freeze", |f| matches!(f.health, StoreHealth::Frozen(_))).await;
    assert!(frozen.state.nodes.is_empty());

    let next = etcd.store();
    next.expect(seen);
    until(&mut next.follow(CancellationToken::new()), "the read", |f| synced(f) && f.state.nodes.len() == 1)
        .await;
}

#[tokio::test]
async fn a_watch_that_falls_silent_on_a_connection_that_lives_is_made_anew() {
    let etcd = Etcd::start().await;
    let (relay, store) = relayed(&etcd).await;
    let vigilance =
        Vigilance { ask: Duration::from_millis(200), silent: Duration::from_secs(1), ..Vigilance::default() };
    let mut followed = store.follow_with(RecordSet::default(), vigilance, CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    let made = relay.made();
    relay.withhold(true);
    etcd.put("networks/blue", BLUE).await;
    // The connection's own probe would take longer to find anything, and finds nothing.
    until(
        &mut followed,
        "the silence",
        |f| matches!(&f.health, StoreHealth::Lost(why) if why.contains("silent")),
    )
    .await;
    until(&mut followed, "what was withheld", |f| synced(f) && has(f, "blue")).await;
    assert!(relay.made() > made, "it is read by the connection that was silent");
}

#[tokio::test]
async fn a_watch_that_has_nothing_to_say_and_answers_is_left_alone() {
    let etcd = Etcd::start().await;
    let (relay, store) = relayed(&etcd).await;
    let vigilance =
        Vigilance { ask: Duration::from_millis(100), silent: Duration::from_secs(1), ..Vigilance::default() };
    let mut followed = store.follow_with(RecordSet::default(), vigilance, CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    let made = relay.made();
    tokio::time::sleep(vigilance.silent * 3).await;
    assert!(synced(&followed.borrow_and_update()) && relay.made() == made);
    etcd.put("networks/blue", BLUE).await;
    until(&mut followed, "a change", |f| has(f, "blue")).await;
}

#[tokio::test]
async fn a_lost_event_is_made_up_for_when_all_is_read_again() {
    let etcd = Etcd::start().await;
    let (relay, store) = relayed(&etcd).await;
    let vigilance = Vigilance { reread: Duration::from_secs(4), ..Vigilance::default() };
    let mut followed = store.follow_with(RecordSet::default(), vigilance, CancellationToken::new());
    until(&mut followed, "the first read", synced).await;
    // The connection that it is read again by.
    assert!(store.pools_of(&"n1".parse().unwrap()).await.unwrap().is_empty());
    let made = relay.made();
    relay.withhold(true);
    etcd.put("networks/blue", BLUE).await;
    relay.has_withheld().await;
    relay.withhold(false);
    etcd.put("networks/red", numbered(1)).await;
    let later = until(&mut followed, "the next event", |f| has(f, "red")).await;
    assert!(!has(&later, "blue"), "nothing was lost");
    until(&mut followed, "the lost event", |f| has(f, "blue") && has(f, "red")).await;
    assert!(synced(&followed.borrow()) && relay.made() == made, "the watch was thought to be dead");
}

#[tokio::test]
async fn changes_are_followed_while_all_is_read_again() {
    let etcd = Etcd::start().await;
    // Enough for a read to take its time.
    for n in 0..1500 {
        etcd.put(&format!("networks/old{n}"), numbered(n)).await;
    }
    let vigilance = Vigilance { reread: Duration::ZERO, ..Vigilance::default() };
    let mut followed = etcd.store().follow_with(RecordSet::default(), vigilance, CancellationToken::new());
    until(&mut followed, "the first read", |f| synced(f) && f.state.networks.len() == 1500).await;
    // What is read is older than what the watch tells meanwhile, and never comes back.
    for round in 0..150 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        etcd.put(&format!("networks/{new}"), numbered(5000 + round)).await;
        etcd.delete(&format!("networks/{old}")).await;
        let is_right = |f: &Followed| {
            let goes = (0..=round).all(|n| has(f, &format!("new{n}")) && !has(f, &format!("old{n}")));
            goes && synced(f)
        };
        until(&mut followed, "the changes", is_right).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = followed.borrow_and_update();
            assert!(is_right(&now), "round {round}: it went back in time");
        }
    }
    assert_eq!(followed.borrow().state.networks.len(), 1500);
}
