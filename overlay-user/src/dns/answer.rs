//! What becomes of a query: a pure function of the query, of who asks, and of the names there are.
//!
//! A name that an endpoint of the asker's networks has is answered with authority, whatever is asked about
//! it, so that nobody goes on to ask elsewhere: what is not there is said not to be there at once. So are
//! names directly below a network's own name, and names of addresses in its subnets. All else is somebody
//! else's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{PTR, SOA},
    },
};

use super::{
    question::{Malformed, Question, name_of},
    zone::{Zone, Zones},
};
use crate::state::{Endpoint, NetworkName};

/// How long an answer may be kept, in seconds: a container that comes back has another address.
const TTL: u32 = 5;

/// That something is not there may not be kept at all: it may be there the next moment.
const NEGATIVE_TTL: u32 = 0;

/// The largest datagram in bytes, however large the asker allows it to be. It does not leave the host.
const LARGEST_DATAGRAM: u16 = 4096;

/// The largest datagram for who says nothing of it (RFC 1035, section 4.2.1).
const LEAST_DATAGRAM: u16 = 512;

/// The largest record of an address: a pointer to the name, type, class, TTL, length and 16 bytes.
const LARGEST_ADDRESS: usize = 28;

/// More addresses than this are of no use to anybody who asks for a name.
const MOST_ADDRESSES: usize = 256;

/// How a query came, and how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a UDP datagram.
    Datagram,
    /// On a TCP connection.
    Stream,
}

/// What becomes of a query.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// This is the answer.
    Answer(Vec<u8>),
    /// It cannot be answered, and this says why.
    Refuse(Vec<u8>),
    /// Somebody else knows.
    Forward(Question),
    /// It is no query: an answer to it could go round for ever.
    Ignore,
}

/// What is known about a name.
enum Subject<'a> {
    /// Endpoints that have it.
    Endpoints(Vec<&'a Arc<Endpoint>>),
    /// It is an address's, of which this is the name; `None` if it has none.
    Address(Option<Name>),
    /// It could be in this domain only, and is not.
    Absent(Name),
}

/// Judges a query that came from a container on the networks of `scope`. `turn` says whose turn it is to
/// be first among equals.
#[must_use]
pub fn judge(
    message: &[u8],
    transport: Transport,
    zones: &Zones,
    scope: &BTreeSet<NetworkName>,
    turn: usize,
) -> Verdict {
    let question = match Question::of_query(message) {
        Ok(question) => question,
        Err(Malformed::NoQuery) => return Verdict::Ignore,
        Err(Malformed::NotOneQuestion(id)) => {
            let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return error.to_vec().map_or(Verdict::Ignore, Verdict::Refuse);
        }
    };
    if let Some(code) = refusal(&question) {
        return Verdict::Refuse(failure(&question, code));
    }
    let Some(subject) = find(&question, zones, scope) else {
        return Verdict::Forward(question);
    };
    let Ok(query) = Message::from_vec(message) else {
        return Verdict::Refuse(failure(&question, ResponseCode::FormErr));
    };
    let limit = match transport {
        Transport::Datagram => query.max_payload().clamp(LEAST_DATAGRAM, LARGEST_DATAGRAM),
        Transport::Stream => u16::MAX,
    };
    if query.version() > 0 {
        let mut answer = respond(&question, ResponseCode::BADVERS);
        answer.set_edns(edns());
        return answer.to_vec().map_or(Verdict::Ignore, Verdict::Refuse);
    }
    let mut answer = answer(&question, &subject, zones, turn);
    if query.edns.is_some() {
        answer.set_edns(edns());
    }
    encode(answer, limit.into())
        .map_or_else(|| Verdict::Refuse(failure(&question, ResponseCode::ServFail)), Verdict::Answer)
}

/// The answer that something has failed, to a query of which no more is known than its question.
#[must_use]
pub fn failure(question: &Question, code: ResponseCode) -> Vec<u8> {
    // Encoding what was decoded cannot fail; without its question an answer is understood as well.
    respond(question, code).to_vec().unwrap_or_default()
}

/// Why a query is not for a resolver, if it is not.
fn refusal(question: &Question) -> Option<ResponseCode> {
    let Question { header, query } = question;
    let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    match header.op_code {
        OpCode::Query if query.query_class != DNSClass::IN || transfer => Some(ResponseCode::Refused),
        OpCode::Query => None,
        _ => Some(ResponseCode::NotImp),
    }
}

fn find<'a>(question: &Question, zones: &'a Zones, scope: &'a BTreeSet<NetworkName>) -> Option<Subject<'a>> {
    if let Some(address) = question.address() {
        let mut own = zones.of(scope).filter(|zone| zone.contains(address)).peekable();
        own.peek()?;
        return Some(Subject::Address(own.find_map(|zone| name_at(zone, address))));
    }
    let name = question.name()?;
    let mut endpoints = Vec::new();
    let mut domain = None;
    for zone in zones.of(scope) {
        endpoints.extend(zone.named(&name));
        if let Some(host) = zone.host(&name) {
            endpoints.extend(zone.named(host));
            // What is further below may be in the world: a network may be called like a domain.
            if !host.contains('.') {
                domain = Some(zone.domain());
            }
        }
    }
    if endpoints.is_empty() {
        return domain.and_then(name_of).map(Subject::Absent);
    }
    if endpoints.iter().any(|endpoint| !zones.is_away(&endpoint.node)) {
        endpoints.retain(|endpoint| !zones.is_away(&endpoint.node));
    }
    Some(Subject::Endpoints(endpoints))
}

/// The name of an address in a network: its endpoint's first, in the network's domain.
fn name_at(zone: &Zone, address: IpAddr) -> Option<Name> {
    let name = zone.at(address)?.names.first()?;
    name_of(&format!("{name}.{}", zone.domain()))
}

fn answer(question: &Question, subject: &Subject<'_>, zones: &Zones, turn: usize) -> Message {
    let Question { header: _, query } = question;
    let mut answer = respond(question, ResponseCode::NoError);
    answer.metadata.authoritative = true;
    let record = |data: RData| Record::from_rdata(query.name.clone(), TTL, data);
    let mut domain = &query.name;
    match subject {
        Subject::Endpoints(endpoints) => {
            let mut addresses: Vec<_> = endpoints
                .iter()
                .flat_map(|endpoint| &endpoint.addresses)
                .filter(|address| is_asked_for(query.query_type, address))
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            let first = turn.checked_rem(addresses.len()).unwrap_or_default();
            addresses.rotate_left(first);
            addresses.truncate(MOST_ADDRESSES);
            answer.add_answers(addresses.into_iter().map(|address| record(RData::from(*address))));
        }
        Subject::Address(Some(name)) => {
            if matches!(query.query_type, RecordType::PTR | RecordType::ANY) {
                answer.add_answer(record(RData::PTR(PTR(name.clone()))));
            }
        }
        Subject::Address(None) => answer.metadata.response_code = ResponseCode::NXDomain,
        Subject::Absent(of) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            domain = of;
        }
    }
    if answer.answers.is_empty() {
        answer.add_authority(start_of_authority(domain, zones.serial()));
    }
    answer
}

fn is_asked_for(kind: RecordType, address: &IpAddr) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

/// What goes with an answer that something is not there, and says for how long that may be kept
/// (RFC 2308, section 3).
fn start_of_authority(domain: &Name, serial: u32) -> Record {
    let nobody = name_of("nobody.invalid").unwrap_or_default();
    let soa = SOA::new(domain.clone(), nobody, serial, 60, 60, 60, NEGATIVE_TTL);
    Record::from_rdata(domain.clone(), NEGATIVE_TTL, RData::SOA(soa))
}

fn respond(question: &Question, code: ResponseCode) -> Message {
    let Question { header, query } = question;
    let mut answer = Message::error_msg(header.id, header.op_code, code);
    answer.metadata.recursion_desired = header.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = header.checking_disabled;
    answer.add_query(query.clone());
    answer
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_DATAGRAM);
    edns
}

/// The answer in at most `limit` bytes: if not all fit, as many addresses as do, and that it is truncated.
fn encode(mut answer: Message, limit: usize) -> Option<Vec<u8>> {
    let whole = answer.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    let all = std::mem::take(&mut answer.answers);
    let least = answer.to_vec().ok()?.len();
    let fit = limit.checked_sub(least)? / LARGEST_ADDRESS;
    answer.add_answers(all.into_iter().take(fit));
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests;
