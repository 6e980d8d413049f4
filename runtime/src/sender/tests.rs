use std::net::SocketAddr;

use http_body_util::Empty;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::trust;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
const PATIENT: Duration = Duration::from_secs(20);
const TIMES: Times = Times { connect: PATIENT, first_byte: PATIENT, between_bytes: PATIENT };

/// Answers one connection that speaks TLS with a certificate for `name` that nobody signed.
async fn server(name: &str) -> (SocketAddr, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let certificate = certificate.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        answer(&mut stream).await;
        stream.shutdown().await.unwrap();
    });
    (address, certificate)
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut asked = [0; 1024];
    let read = stream.read(&mut asked).await.unwrap();
    assert!(asked[..read].starts_with(b"GET /x?y HTTP/1.1\r\n"), "{:?}", &asked[..read]);
    stream.write_all(ANSWER).await.unwrap();
}

async fn get(url: String, trusted: &[CertificateDer<'static>]) -> Result<Bytes> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.to_vec());
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(url).body(body).unwrap();
    let (response, io) = send(request, TIMES, || trust::client_config(roots)).await?;
    let io = tokio::spawn(Box::into_pin(io));
    let body = response.into_body().collect().await?.to_bytes();
    io.await.unwrap()?;
    Ok(body)
}

#[tokio::test]
async fn a_certificate_of_a_trusted_root_for_the_right_name_is_accepted() {
    for name in ["localhost", "127.0.0.1"] {
        let (address, certificate) = server(name).await;
        let url = format!("https://{name}:{}/x?y", address.port());
        assert_eq!(get(url, &[certificate]).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_certificate_of_nobody_or_for_another_name_is_refused_before_the_request_is_sent() {
    let (_, other) = server("localhost").await;
    for (name, trusted) in [("localhost", false), ("example.com", true)] {
        let (address, certificate) = server(name).await;
        let trusted = if trusted { certificate } else { other.clone() };
        let url = format!("https://localhost:{}/x?y", address.port());
        let refused = get(url, &[trusted]).await.unwrap_err();
        let Error::Tls(error) = &refused else { panic!("{refused:?}") };
        assert!(crate::outbound::is_certificate(error), "{error:?}");
    }
}

#[tokio::test]
async fn without_a_trusted_root_nothing_is_trusted() {
    let (address, _) = server("localhost").await;
    let refused = get(format!("https://localhost:{}/x?y", address.port()), &[]).await;
    assert!(matches!(refused, Err(Error::ConfigurationError)), "{refused:?}");
}

#[tokio::test]
async fn what_speaks_no_tls_is_no_bad_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
    });
    let (_, root) = server("localhost").await;
    let refused = get(format!("https://localhost:{port}/x?y"), &[root]).await.unwrap_err();
    let Error::Tls(error) = &refused else { panic!("{refused:?}") };
    assert!(!crate::outbound::is_certificate(error), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_stops_half_way_breaks_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (over, wait) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&ANSWER[..ANSWER.len() - 2]).await.unwrap();
        // The connection stays open until the test has seen enough.
        let _ = wait.await;
    });
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(format!("http://{address}/x?y")).body(body).unwrap();
    let times = Times { between_bytes: Duration::from_millis(50), ..TIMES };
    let (response, io) = send(request, times, || None).await.unwrap();
    let io = tokio::spawn(Box::into_pin(io));
    let broken = response.into_body().collect().await.unwrap_err();
    assert!(matches!(broken, Error::ConnectionReadTimeout), "{broken:?}");
    drop(over);
    io.abort();
}
