//! Outbound requests reach what the rules name, and nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nigh_runtime::{Call, Engine, Failure};
use support::{ask, get, load, rules};
use tokio::net::TcpListener;
use tokio::time::Instant;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| support::engine(8, 1));

/// A server that answers with the `host` it was asked for, or never on `/never`.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/never" {
        std::future::pending::<()>().await;
    }
    let host = request.headers().get("host").cloned();
    let text = format!("reached {}", host.unwrap().to_str().unwrap());
    Ok(Response::new(Full::new(text.into())))
}

#[tokio::test]
async fn an_allowed_request_is_sent() {
    let address = server().await;
    let call = Call {
        outbound: rules(&[&format!("http://{address}")]),
        ..get(&format!("/?url=http://{address}/x"))
    };
    let answer = ask(&load(&ENGINE, "proxy"), call).await.unwrap();
    assert_eq!((answer.status, answer.text), (200, format!("reached {address}")));
}

#[tokio::test]
async fn all_else_is_denied() {
    let address = server().await;
    let function = load(&ENGINE, "proxy");
    for allowed in [vec![], vec!["http://127.0.0.1:1"], vec!["https://127.0.0.1"]] {
        let call = Call { outbound: rules(&allowed), ..get(&format!("/?url=http://{address}/x")) };
        let answer = ask(&function, call).await.unwrap();
        assert_eq!(answer.status, 502);
        assert!(answer.text.contains("HttpRequestDenied"), "{allowed:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_refused_connection_is_the_guests_to_handle() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let call = Call {
        outbound: rules(&[&format!("http://{address}")]),
        ..get(&format!("/?url=http://{address}/"))
    };
    let answer = ask(&load(&ENGINE, "proxy"), call).await.unwrap();
    assert!(answer.text.contains("ConnectionRefused"), "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_never_answers_holds_a_call_no_longer_than_its_deadline() {
    let address = server().await;
    let call = Call {
        outbound: rules(&[&format!("http://{address}")]),
        deadline: Instant::now() + Duration::from_millis(200),
        ..get(&format!("/?url=http://{address}/never"))
    };
    match ask(&load(&ENGINE, "proxy"), call).await {
        Err(Failure::Deadline { .. }) => {}
        other => panic!("{other:?}"),
    }
}
