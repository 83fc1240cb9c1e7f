use hickory_proto::op::{MessageType, Query};
use proptest::prelude::*;

use super::*;
use crate::state::{RawRecord, RecordSet, State};

/// A state of two networks: `blue` has IPv4, `Red` both families. `n2` does not live.
fn state() -> State {
    let mut records = RecordSet::default();
    for (key, value) in [
        ("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#),
        ("nodes/n2", r#"{"vtep":"192.0.2.2","port":4789}"#),
        ("alive/n1", r#"{"incarnation":1}"#),
        ("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#),
        (
            "networks/Red",
            r#"{"vni":8,"subnet":"10.0.8.0/24","gateway":"10.0.8.1",
               "dual":{"subnet":"fd00:8::/64","gateway":"fd00:8::1"}}"#,
        ),
        (
            "endpoints/blue/000000000001",
            r#"{"node":"n1","mac":"02:00:00:00:00:01","addresses":["10.0.9.2"],"names":["web","www","0123456789ab"]}"#,
        ),
        (
            "endpoints/blue/000000000002",
            r#"{"node":"n1","mac":"02:00:00:00:00:02","addresses":["10.0.9.3"],"names":["Web2","www"]}"#,
        ),
        (
            "endpoints/blue/000000000003",
            r#"{"node":"n2","mac":"02:00:00:00:00:03","addresses":["10.0.9.4"],"names":["lost","www"]}"#,
        ),
        (
            "endpoints/blue/000000000004",
            r#"{"node":"n1","mac":"02:00:00:00:00:04","addresses":["10.0.9.5"]}"#,
        ),
        (
            "endpoints/Red/000000000005",
            r#"{"node":"n1","mac":"02:00:00:00:00:05","addresses":["10.0.8.2","fd00:8::2"],"names":["web","a.b"]}"#,
        ),
    ] {
        assert!(records.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 1 }));
    }
    let state = records.state(9);
    assert!(state.rejected.is_empty(), "{:?}", state.rejected);
    state
}

fn scope(networks: &str) -> BTreeSet<NetworkName> {
    networks.split_whitespace().map(|network| network.parse().unwrap()).collect()
}

fn zones() -> Zones {
    let mut zones = Zones::default();
    zones.update(&Arc::new(state()), &scope("blue Red"));
    zones
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(0x1234, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.parse::<Name>().unwrap(), kind));
    query
}

fn judged(query: &Message, scope: &BTreeSet<NetworkName>) -> Verdict {
    judge(&query.to_vec().unwrap(), Transport::Datagram, &zones(), scope, 0)
}

/// What becomes of a question: the code and what was answered, or `-` if it is forwarded.
fn told(name: &str, kind: RecordType, networks: &str) -> String {
    match judged(&query(name, kind), &scope(networks)) {
        Verdict::Answer(bytes) => {
            let answer = Message::from_vec(&bytes).unwrap();
            assert!(answer.authoritative && answer.recursion_available && answer.recursion_desired);
            assert_eq!((answer.id, answer.queries.len()), (0x1234, 1));
            // What is not there is said with authority, and not to be kept.
            assert_eq!(answer.answers.is_empty(), answer.authorities.len() == 1);
            for record in &answer.authorities {
                assert_eq!((record.record_type(), record.ttl), (RecordType::SOA, 0));
                assert!(record.name.zone_of(&answer.queries[0].name), "{record}");
            }
            let mut words = vec![format!("{:?}", answer.response_code)];
            words.extend(answer.answers.iter().map(|record| {
                assert!(record.ttl <= 5 && record.name == answer.queries[0].name);
                record.data.to_string()
            }));
            words.join(" ")
        }
        Verdict::Forward(question) => {
            assert_eq!(question.query.query_type, kind);
            "-".to_owned()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn who_asks_sees_the_names_of_its_own_networks() {
    use RecordType::{A, AAAA, ANY, HTTPS, MX};
    for (name, kind, networks, expected) in [
        ("web.", A, "blue", "NoError 10.0.9.2"),
        ("WEB.", A, "blue", "NoError 10.0.9.2"),
        ("web.blue.", A, "blue", "NoError 10.0.9.2"),
        ("web.BLUE.", A, "blue", "NoError 10.0.9.2"),
        ("web2.", A, "blue", "NoError 10.0.9.3"),
        ("0123456789ab.", A, "blue", "NoError 10.0.9.2"),
        // On two networks, two addresses, unless one is meant.
        ("web.", A, "blue Red", "NoError 10.0.8.2 10.0.9.2"),
        ("web.red.", A, "blue Red", "NoError 10.0.8.2"),
        ("a.b.", A, "Red", "NoError 10.0.8.2"),
        ("a.b.red.", AAAA, "Red", "NoError fd00:8::2"),
        // A family or a kind it does not have: nothing, at once.
        ("web.", AAAA, "blue", "NoError"),
        ("web.", AAAA, "Red", "NoError fd00:8::2"),
        ("web.", ANY, "Red", "NoError 10.0.8.2 fd00:8::2"),
        ("web.", HTTPS, "blue", "NoError"),
        ("web.blue.", MX, "blue", "NoError"),
        // Nobody has it.
        ("nobody.blue.", A, "blue", "NXDomain"),
        ("nobody.", A, "blue", "-"),
        ("www.example.blue.", A, "blue", "-"),
        ("blue.", A, "blue", "-"),
        ("example.com.", A, "blue", "-"),
        (".", A, "blue", "-"),
        // Names of networks that the asker is not on are like any other.
        ("web.", A, "", "-"),
        ("web.red.", A, "blue", "-"),
        ("a.b.", A, "blue", "-"),
        ("web.blue.", A, "Red", "-"),
        // A node that does not live is named only where nobody else is.
        ("www.", A, "blue", "NoError 10.0.9.2 10.0.9.3"),
        ("lost.", A, "blue", "NoError 10.0.9.4"),
    ] {
        assert_eq!(told(name, kind, networks), expected, "{name} {kind} for {networks:?}");
    }
}

#[test]
fn addresses_have_names_on_the_askers_networks() {
    use RecordType::{A, PTR};
    let long = format!("2.{}8.0.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(23));
    for (name, kind, networks, expected) in [
        ("2.9.0.10.in-addr.arpa.", PTR, "blue", "NoError web.blue."),
        ("2.9.0.10.IN-ADDR.arpa.", PTR, "blue", "NoError web.blue."),
        (&*long, PTR, "Red", "NoError web.red."),
        ("2.9.0.10.in-addr.arpa.", A, "blue", "NoError"),
        ("5.9.0.10.in-addr.arpa.", PTR, "blue", "NXDomain"),
        ("99.9.0.10.in-addr.arpa.", PTR, "blue", "NXDomain"),
        ("2.9.0.10.in-addr.arpa.", PTR, "Red", "-"),
        ("9.0.10.in-addr.arpa.", PTR, "blue", "-"),
        ("8.8.8.8.in-addr.arpa.", PTR, "blue Red", "-"),
    ] {
        assert_eq!(told(name, kind, networks), expected, "{name} {kind} for {networks:?}");
    }
}

#[test]
fn those_of_one_name_take_turns_to_be_first() {
    let bytes = query("www.", RecordType::A).to_vec().unwrap();
    let (zones, blue) = (zones(), scope("blue"));
    let firsts: Vec<_> = (0..4)
        .map(|turn| {
            let Verdict::Answer(answer) = judge(&bytes, Transport::Datagram, &zones, &blue, turn) else {
                panic!("not answered")
            };
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.answers.len(), 2);
            answer.answers[0].data.to_string()
        })
        .collect();
    assert_eq!(firsts, ["10.0.9.2", "10.0.9.3", "10.0.9.2", "10.0.9.3"]);
}

/// A zone of `count` endpoints with one name.
fn crowd(count: u8) -> Zones {
    let mut records = RecordSet::default();
    let mut put = |key: &str, value: &str| {
        records.put(RawRecord { key: key.as_bytes(), value: value.as_bytes(), create_revision: 1 });
    };
    put("nodes/n1", r#"{"vtep":"192.0.2.1","port":4789}"#);
    put("networks/blue", r#"{"vni":7,"subnet":"10.0.9.0/24","gateway":"10.0.9.1"}"#);
    for id in 2..count + 2 {
        let value = format!(
            r#"{{"node":"n1","mac":"02:00:00:00:00:{id:02x}","addresses":["10.0.9.{id}"],"names":["all"]}}"#
        );
        put(&format!("endpoints/blue/{id:012x}"), &value);
    }
    let mut zones = Zones::default();
    zones.update(&Arc::new(records.state(2)), &scope("blue"));
    zones
}

#[test]
fn what_does_not_fit_a_datagram_is_told_in_part_and_whole_on_a_stream() {
    let zones = crowd(200);
    let mut with_edns = query("all.", RecordType::A);
    with_edns.set_edns(edns());
    for (query, transport, limit, truncated) in [
        (query("all.", RecordType::A), Transport::Datagram, 512, true),
        (query("all.", RecordType::A), Transport::Stream, 65535, false),
        (with_edns, Transport::Datagram, 4096, false),
    ] {
        let Verdict::Answer(bytes) = judge(&query.to_vec().unwrap(), transport, &zones, &scope("blue"), 7)
        else {
            panic!("not answered")
        };
        assert!(bytes.len() <= limit);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.truncation, truncated);
        assert_eq!(answer.answers.len() < 200, truncated);
        assert!(answer.answers.len() > 10);
        assert_eq!(answer.edns.is_some(), query.edns.is_some());
    }
}

#[test]
fn what_is_no_query_for_a_resolver_is_refused() {
    let code = |query: &Message| match judged(query, &scope("blue")) {
        Verdict::Refuse(bytes) => Some(Message::from_vec(&bytes).unwrap().response_code),
        Verdict::Ignore => None,
        other => panic!("{other:?}"),
    };
    let web = || query("web.", RecordType::A);
    assert_eq!(code(&query("blue.", RecordType::AXFR)), Some(ResponseCode::Refused));

    let mut chaos = web();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), Some(ResponseCode::Refused));

    let mut update = web();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), Some(ResponseCode::NotImp));

    let mut two = web();
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&two), Some(ResponseCode::FormErr));

    let mut newer = web();
    newer.set_edns(edns().set_version(1).clone());
    // The code 16 has two names.
    assert_eq!(code(&newer).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));

    // Answering an answer could go on for ever.
    assert_eq!(code(&web().into_response()), None);
}

#[test]
fn an_answer_is_taken_for_one_only_if_it_is_to_that_question() {
    let asked = query("example.com.", RecordType::A);
    let question = Question::of_query(&asked.to_vec().unwrap()).unwrap();
    let answered_by = |message: &Message, id| question.answered_by(&message.to_vec().unwrap(), id).is_some();
    let right = asked.clone().into_response();
    assert!(answered_by(&right, 0x1234));
    assert!(!answered_by(&right, 0x1235));
    assert!(!answered_by(&asked, 0x1234));
    for other in [query("example.org.", RecordType::A), query("example.com.", RecordType::AAAA)] {
        assert!(!answered_by(&other.into_response(), 0x1234));
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_judged(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        questions in 0..3_u8,
        additionals in 0..3_u8,
    ) {
        let (zones, scope) = (crowd(3), scope("blue"));
        let _ = judge(&bytes, Transport::Datagram, &zones, &scope, 0);
        // The same behind a header that is one, and behind a question that is one.
        let header = [0, 1, 1, 0, 0, questions, 0, 0, 0, 0, 0, additionals];
        let _ = judge(&[&header, &bytes[..]].concat(), Transport::Datagram, &zones, &scope, 0);
        let question = b"\x03all\0\0\x01\0\x01";
        let _ = judge(&[&header, &question[..], &bytes].concat(), Transport::Datagram, &zones, &scope, 0);
    }
}
