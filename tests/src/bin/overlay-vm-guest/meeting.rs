//! Where the two nodes wait for each other: a connection between them, by the card that no test touches.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_tests::exec::eventually;

use crate::{PATIENCE, card::Card};

const PORT: u16 = 7700;

/// One end of it. A node says the name of the place it has come to, and waits until the other says it.
pub struct Meeting {
    from: BufReader<TcpStream>,
    /// A place that the other one is at already, having given up what was before.
    ahead: Option<Said>,
}

/// A place and what was said there.
struct Said {
    place: String,
    word: String,
}

impl Meeting {
    /// The first node listens, the second calls. Both have set up their control cards.
    pub fn open(number: u8) -> Result<Self> {
        let place = (Card::Control.address(1), PORT);
        let stream = if number == 1 {
            let listener = TcpListener::bind(place)?;
            listener.set_nonblocking(true)?;
            let (stream, _) = eventually(PATIENCE, || Ok(listener.accept()?)).context("no second node")?;
            stream.set_nonblocking(false)?;
            stream
        } else {
            eventually(PATIENCE, || Ok(TcpStream::connect(place.clone())?)).context("no first node")?
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(10)))?;
        Ok(Self { from: BufReader::new(stream), ahead: None })
    }

    /// Waits until the other node is at this place too, and returns its word for ours.
    pub fn exchange(&mut self, place: &str, word: &str) -> Result<String> {
        self.say(place, word)?;
        let said = self.hear()?;
        if said.place == place {
            return Ok(said.word);
        }
        let elsewhere = format!("the other node did not come to {place}: it is at {}", said.place);
        self.ahead = Some(said);
        bail!(elsewhere)
    }

    /// Waits until the other node is at this place too, whatever it did not come to before.
    pub fn gather(&mut self, place: &str) -> Result<()> {
        self.say(place, "")?;
        while self.hear()?.place != place {}
        Ok(())
    }

    fn say(&mut self, place: &str, word: &str) -> Result<()> {
        writeln!(self.from.get_mut(), "{place}\t{word}").context("the other node is gone")
    }

    fn hear(&mut self) -> Result<Said> {
        if let Some(said) = self.ahead.take() {
            return Ok(said);
        }
        let mut line = String::new();
        let length = self.from.read_line(&mut line).context("the other node says nothing")?;
        ensure!(length > 0, "the other node is gone");
        let (place, word) = line.trim_end_matches('\n').split_once('\t').context("half a line")?;
        Ok(Said { place: place.to_owned(), word: word.to_owned() })
    }
}
