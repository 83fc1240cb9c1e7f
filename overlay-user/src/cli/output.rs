//! Printing: tables as Docker's users know them, or JSON.

use std::{
    cell::Cell,
    io::{self, ErrorKind, Write as _},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs; field names do not change
    Json,
}

/// What can be shown to people.
pub trait Show: Serialize {
    /// The text, each line ended.
    fn text(&self) -> String;
}

/// Where results go.
pub struct Output {
    format: Format,
    shown: Cell<bool>,
}

impl Output {
    pub const fn new(format: Format) -> Self {
        Self { format, shown: Cell::new(true) }
    }

    /// Prints a result. Whoever stops reading has read enough.
    pub fn show(&self, what: &impl Show) {
        let text = render(self.format, what);
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        if let Err(error) = written
            && error.kind() != ErrorKind::BrokenPipe
        {
            self.shown.set(false);
            complain(&format!("the result could not be printed: {error}"));
        }
    }

    /// Whether all could be printed.
    pub const fn was_shown(&self) -> bool {
        self.shown.get()
    }
}

pub fn render(format: Format, what: &impl Show) -> String {
    match format {
        Format::Table => what.text(),
        Format::Json => match serde_json::to_string_pretty(what) {
            Ok(json) => json + "\n",
            Err(error) => format!("{{\"error\": \"{error}\"}}\n"),
        },
    }
}

/// One line on standard error. If that cannot be written there is nobody left to tell.
pub fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "overlayctl: {what}");
}

/// Rows in columns under upper-case headers, without lines.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = bare();
    table.set_header(header);
    table.add_rows(rows);
    finish(&mut table)
}

/// What belongs to what, one pair a line.
pub fn pairs<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = bare();
    table.add_rows(rows.into_iter().map(|(name, value)| [name.to_owned(), value]));
    finish(&mut table)
}

/// A list in a cell.
pub fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A cell of something that may be absent.
pub fn or_dash<T: ToString>(item: Option<&T>) -> String {
    item.map(ToString::to_string).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn finish(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
