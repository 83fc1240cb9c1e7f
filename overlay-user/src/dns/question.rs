//! The parts of a message that both a query and its answer have: the header and the question.

use std::net::IpAddr;

use hickory_proto::{
    op::{Header, MessageType, Metadata, Query},
    rr::Name,
    serialize::binary::{BinDecodable as _, BinDecoder},
};

/// Bytes of a header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// What one message asks, or answers.
#[derive(Clone, Debug)]
pub struct Question {
    /// Identity, flags and codes.
    pub header: Metadata,
    /// The one question.
    pub query: Query,
}

/// A message that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not even a header, or not of a query: not to be answered.
    NoQuery,
    /// A query that says something else than one question. Its identity.
    NotOneQuestion(u16),
}

// === impl Question ===

impl Question {
    /// Reads the question of a query.
    pub fn of_query(message: &[u8]) -> Result<Self, Malformed> {
        let header = header(message).filter(|header| header.message_type == MessageType::Query);
        let header = header.ok_or(Malformed::NoQuery)?;
        Self::read(message).ok_or(Malformed::NotOneQuestion(header.metadata.id))
    }

    /// Reads the question of an answer to this one that was sent under an identity of its own. `None` if the
    /// message is none.
    #[must_use]
    pub fn answered_by(&self, message: &[u8], id: u16) -> Option<Metadata> {
        let answer = Self::read(message)?;
        let fits = answer.header.message_type == MessageType::Response
            && answer.header.id == id
            && answer.query == self.query;
        fits.then_some(answer.header)
    }

    fn read(message: &[u8]) -> Option<Self> {
        let header = header(message)?;
        if header.counts.queries != 1 {
            return None;
        }
        let mut decoder = BinDecoder::new(message);
        decoder.read_slice(HEADER).ok()?;
        let query = Query::read(&mut decoder).ok()?;
        Some(Self { header: header.metadata, query })
    }

    /// Its name in lower case, without the last dot; `None` if no endpoint can have it.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let mut text = String::new();
        for label in &self.query.name {
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte)) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        }
        Some(text)
    }

    /// The address whose name is asked for, if its name is that of an address.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let net = self.query.name.parse_arpa_name().ok()?;
        (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
    }
}

/// Makes a name of a text whose labels are divided by dots.
pub fn name_of(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

fn header(message: &[u8]) -> Option<Header> {
    Header::read(&mut BinDecoder::new(message)).ok()
}
