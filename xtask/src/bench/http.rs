//! GET over one kept connection, for what is timed call by call and for metrics. No more of HTTP/1.1
//! than our own servers send.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// No answer here takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest body that is read, in bytes: a page of metrics is some tens of KiB.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A connection.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks and reads the answer to its end.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer.
    pub(super) fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask(path)?;
        self.answer()
    }

    /// Asks only.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn ask(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        Ok(self.stream.get_mut().write_all(request.as_bytes())?)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub(super) fn answer(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).with_context(|| format!("no status: `{first}`"))?;
        let status = status.parse()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", bytes)) => length = Some(bytes.parse::<usize>()?),
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(_) => {}
                None if line.is_empty() => break,
                None => bail!("`{line}` is no header"),
            }
        }
        let mut body = Vec::new();
        match (length, chunked) {
            (Some(bytes), _) => self.read(bytes, &mut body)?,
            (None, true) => self.chunks(&mut body)?,
            (None, false) => bail!("the answer has no length"),
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<()> {
        loop {
            let bytes = usize::from_str_radix(self.line()?.trim(), 16)?;
            self.read(bytes, body)?;
            let end = self.line()?;
            ensure!(end.is_empty(), "a chunk is longer than it said");
            if bytes == 0 {
                return Ok(());
            }
        }
    }

    fn read(&mut self, bytes: usize, body: &mut Vec<u8>) -> Result<()> {
        let from = body.len();
        ensure!(from + bytes <= BODY_BYTES_MAX, "the answer is too long");
        body.resize(from + bytes, 0);
        Ok(self.stream.read_exact(&mut body[from..])?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_with_a_length_and_in_chunks_are_read_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 503 No\r\n\
                      transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
                )
                .unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).unwrap();
            asked
        });
        let mut connection = Connection::open(address).unwrap();
        let answer = |status, body: &str| Answer { status, body: body.to_owned() };
        assert_eq!(connection.get("/").unwrap(), answer(200, "ok"));
        assert_eq!(connection.answer().unwrap(), answer(503, "abcd"));
        assert_eq!(&server.join().unwrap(), b"GET ");
        assert!(connection.answer().is_err());
    }
}
