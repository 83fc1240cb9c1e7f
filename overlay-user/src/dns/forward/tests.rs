use std::sync::Arc;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{RData, Record, RecordType, rdata::A},
};
use tokio::net::TcpListener;

use super::*;

/// How a server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Fails,
    IsSilent,
    /// Something that is no answer first.
    LiesFirst,
    /// By UDP that there is more.
    Truncates,
}

/// A name server on loopback, which knows one address for every name.
async fn server(manner: Manner, address: [u8; 4]) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(at).await.unwrap();
    let respond = move |bytes: &[u8], truncated: bool| {
        let mut answer = Message::from_vec(bytes).unwrap().into_response();
        let name = answer.queries[0].name.clone();
        match manner {
            Manner::Fails => answer.metadata.response_code = ResponseCode::ServFail,
            _ if truncated => answer.metadata.truncation = true,
            _ => {
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A::from(Ipv4Addr::from(address)))));
            }
        }
        answer.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        loop {
            let (len, from) = udp.recv_from(&mut bytes).await.unwrap();
            if manner == Manner::IsSilent {
                continue;
            }
            let answer = respond(&bytes[..len], manner == Manner::Truncates);
            if manner == Manner::LiesFirst {
                let mut lie = answer.clone();
                lie[1] ^= 1;
                udp.send_to(&lie, from).await.unwrap();
                udp.send_to(b"no message", from).await.unwrap();
            }
            udp.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let query = read_message(&mut stream, 512).await.unwrap();
            write_message(&mut stream, &respond(&query, false)).await.unwrap();
        }
    });
    at
}

fn forwarder(upstreams: &[SocketAddr]) -> Forwarder {
    Forwarder::new(Upstreams::Told(Arc::from(upstreams)))
}

/// The code and the answer's address.
async fn asked(forwarder: &Forwarder, transport: Transport) -> Option<String> {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.add_query(Query::query("example.com.".parse().unwrap(), RecordType::A));
    let query = query.to_vec().unwrap();
    let question = Question::of_query(&query).unwrap();
    let answer = Message::from_vec(&forwarder.ask(&query, &question, transport).await?).unwrap();
    assert_eq!(answer.id, 77);
    let addresses: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    Some(format!("{:?} {}", answer.response_code, addresses.join(" ")))
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_passed_over() {
    let forwarder = forwarder(&[server(Manner::LiesFirst, [192, 0, 2, 1]).await]);
    assert_eq!(asked(&forwarder, Transport::Datagram).await.unwrap(), "NoError 192.0.2.1");
}

#[tokio::test]
async fn a_server_that_is_silent_or_gone_is_asked_last_from_then_on() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = server(Manner::IsSilent, [0; 4]).await;
    let forwarder = forwarder(&[gone, silent, server(Manner::Answers, [192, 0, 2, 3]).await]);
    let begun = Instant::now();
    assert_eq!(asked(&forwarder, Transport::Datagram).await.unwrap(), "NoError 192.0.2.3");
    assert!(begun.elapsed() >= PATIENCE, "the silent one was given its time");
    let begun = Instant::now();
    assert_eq!(asked(&forwarder, Transport::Datagram).await.unwrap(), "NoError 192.0.2.3");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_failure_is_told_only_if_nobody_knows_better() {
    let fails = server(Manner::Fails, [0; 4]).await;
    let answers = server(Manner::Answers, [192, 0, 2, 2]).await;
    let both = forwarder(&[fails, answers]);
    assert_eq!(asked(&both, Transport::Datagram).await.unwrap(), "NoError 192.0.2.2");
    assert_eq!(asked(&forwarder(&[fails]), Transport::Datagram).await.unwrap(), "ServFail ");
    assert_eq!(asked(&forwarder(&[]), Transport::Datagram).await, None);
}

#[tokio::test]
async fn who_asks_on_a_stream_gets_all_of_it() {
    let forwarder = forwarder(&[server(Manner::Truncates, [192, 0, 2, 1]).await]);
    assert_eq!(asked(&forwarder, Transport::Stream).await.unwrap(), "NoError 192.0.2.1");
    assert_eq!(asked(&forwarder, Transport::Datagram).await.unwrap(), "NoError ");
}

#[tokio::test(start_paused = true)]
async fn nobody_who_asks_waits_for_ever() {
    let forwarder = forwarder(&[server(Manner::IsSilent, [0; 4]).await]);
    let begun = Instant::now();
    assert_eq!(asked(&forwarder, Transport::Datagram).await, None);
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(10));
}
