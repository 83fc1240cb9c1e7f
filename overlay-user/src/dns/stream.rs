//! Messages on a TCP connection: each behind its length in two bytes (RFC 1035, section 4.2.2).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Reads a message of at most `largest` bytes.
///
/// # Errors
/// If it is longer, or the connection ends.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin), largest: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > largest {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message, length and all at once.
///
/// # Errors
/// If it is longer than 65535 bytes, or the connection ends.
pub async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), message].concat()).await
}
