//! What a caller is told that does not speak TLS to a port that does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway::socket::Socket;

/// How HTTP/2 begins (RFC 9113 §3.4): with the method of no HTTP/1 request.
const PREFACE: &[u8] = b"PRI ";
/// Of what was sent, this much is looked at.
const LOOKED_AT_BYTES: usize = 1 << 10;
/// The hint itself.
const HINT: &str = "this port speaks TLS: use https://…";

/// Answers in the caller's own words that TLS is spoken here, and hangs up in order. The caller
/// sets a time limit.
pub(crate) async fn refuse(stream: TcpStream) {
    let mut socket = Socket::new(stream);
    let mut sent = [0; LOOKED_AT_BYTES];
    let Ok(length) = socket.read(&mut sent).await else { return };
    // It may be gone by now.
    let _ = socket.write_all(&answer(&sent[..length])).await;
    let _ = socket.shutdown().await;
}

/// The answer to what came first; nothing to what is no HTTP.
fn answer(sent: &[u8]) -> Vec<u8> {
    if sent.starts_with(PREFACE) {
        return go_away();
    }
    if !sent.first().is_some_and(u8::is_ascii_uppercase) {
        return Vec::new();
    }
    let length = HINT.len() + 1;
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{HINT}\n"
    )
    .into_bytes()
}

/// The frames by which an HTTP/2 server begins and ends: SETTINGS, and GOAWAY with
/// INADEQUATE_SECURITY (RFC 9113 §6.5, §6.8).
fn go_away() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    let length = 8 + HINT.len() as u32;
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&length.to_be_bytes()[1..]);
    frames.extend_from_slice(&[7, 0]);
    // It belongs to no stream, and no stream was taken on.
    frames.extend_from_slice(&[0; 8]);
    frames.extend_from_slice(&INADEQUATE_SECURITY.to_be_bytes());
    frames.extend_from_slice(HINT.as_bytes());
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_gets_a_hint_and_noise_gets_nothing() {
        for request in ["GET / HTTP/1.1\r\n\r\n", "POST /x HTTP/1.0\r\n", "PUT", "G"] {
            let said = String::from_utf8(answer(request.as_bytes())).unwrap();
            assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("https://"), "{said}");
            let (head, body) = said.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        }
        for noise in [&b""[..], b"\0\0", b"\x80\x2e", b"hello"] {
            assert!(answer(noise).is_empty(), "{noise:?}");
        }
    }

    #[test]
    fn http2_gets_frames_of_the_right_length() {
        let frames = answer(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let (settings, go_away) = frames.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let length = u32::from_be_bytes([0, go_away[0], go_away[1], go_away[2]]) as usize;
        assert_eq!((go_away[3], go_away.len()), (7, 9 + length));
    }
}
