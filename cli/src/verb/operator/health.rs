//! `nigh operator health`: whether the node of this machine may take calls, as an exit status.
//!
//! For the health checks of containers and service managers, which have no other program at hand.
//! It reads the same settings from the environment as the node beside it and asks that node alone,
//! with no credential: what it learns, anyone may know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nigh_model::Kind;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::root_cause;
use crate::failure::{Failure, Result};
use crate::output::{self, Format};

/// Where the API is unless something else is said.
const API_DEFAULT: &str = "127.0.0.1:7400";
/// What is asked.
const PATH: &str = "/readyz";
/// A node that needs longer to say that it is well is not. Shorter than the time-out of the health
/// check of the image, so that it is this that says what is wrong.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read: it is a line or a few.
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh operator health
  nigh operator health --api 127.0.0.1:7410

Ends with 0 when the node may take calls, and with 5 or 6 when it may not or does not answer.")]
pub(crate) struct Args {
    /// API of the node, as it listens [default: 127.0.0.1:7400]
    #[arg(long, env = "NIGH_API", value_name = "ADDRESS")]
    api: Option<String>,
}

pub(crate) async fn run(args: Args, before_verb: Option<String>, format: Format) -> Result {
    let given = before_verb.or(args.api).unwrap_or_else(|| API_DEFAULT.to_owned());
    let address = reached_at(&given)?;
    let asked = timeout(ANSWER_TIMEOUT, ask(&address)).await;
    let (status, said) = asked.unwrap_or_else(|_| {
        let what = format!("{address} did not say within {ANSWER_TIMEOUT:?} whether it is ready");
        Err(Failure::new(Kind::Timeout, what))
    })?;
    if status != StatusCode::OK {
        let what = format!("the node at {address} takes no calls");
        return Err(Failure::new(Kind::Unavailable, what).why(said));
    }
    match format {
        Format::Json => output::json(&serde_json::json!({ "ready": true, "said": said })),
        Format::Table => output::line(said),
    }
}

/// Where a node is reached from its own machine that listens at this address.
fn reached_at(given: &str) -> Result<String> {
    let rest = given.strip_prefix("http://").unwrap_or(given);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Ok(mut address) = rest.parse::<SocketAddr>() {
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        return Ok(address.to_string());
    }
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(rest.into()),
        _ => Err(Failure::usage(format!("--api: `{given}` is no address of an API"))
            .hint(format!("such as --api {API_DEFAULT}"))),
    }
}

/// Asks once; the status, and what was said with it.
async fn ask(address: &str) -> Result<(StatusCode, String)> {
    let lost = |error: &dyn std::error::Error| {
        let what = format!("no node answers at {address}");
        Failure::new(Kind::Unavailable, what).why(root_cause(error))
    };
    let stream = TcpStream::connect(address).await.map_err(|error| lost(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    // It ends with the runtime, or when the answer has been read.
    tokio::spawn(connection);
    let request = Request::get(PATH)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::usage(format!("--api: {address}: {error}")))?;
    let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| lost(error.as_ref()))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// The exit status when a server gives this answer; none: it accepts and says nothing.
    async fn exit_for(answer: Option<&'static str>) -> u8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Some(listener.local_addr().unwrap().to_string());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        let ran = run(Args { api }, None, Format::Json).await;
        server.abort();
        ran.map_or_else(|failure| failure.exit(), |()| 0)
    }

    #[tokio::test]
    async fn the_exit_status_says_whether_the_node_takes_calls() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
        let not = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nnot\n";
        assert_eq!(exit_for(Some(ok)).await, 0);
        assert_eq!(exit_for(Some(not)).await, 5);
        assert_eq!(exit_for(Some("SSH-2.0-x\r\n")).await, 5);
        assert_eq!(exit_for(None).await, 6);
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = run(Args { api: Some(free.to_string()) }, None, Format::Table).await;
        assert_eq!(failure.unwrap_err().exit(), 5);
    }

    #[test]
    fn an_address_that_listens_for_all_is_asked_on_loopback() {
        for (given, reached) in [
            ("0.0.0.0:7400", "127.0.0.1:7400"),
            ("[::]:7400", "[::1]:7400"),
            ("http://10.0.0.1:7410/", "10.0.0.1:7410"),
            ("localhost:7400", "localhost:7400"),
        ] {
            assert_eq!(reached_at(given).unwrap(), reached);
        }
        for bad in ["", "7400", "host", ":7400", "host:port", "ftp://a"] {
            assert_eq!(reached_at(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }
}
