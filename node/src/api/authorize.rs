//! The door of the API: who asks, and whether they may.
//!
//! What it takes is in `roles`; who somebody is, in `access`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use nigh_model::NodeId;
use nigh_model::audit::Actor;
use tonic::Status;

use super::roles::{Need, need};
use crate::access::{Denied, Shown, identify};
use crate::clock;
use crate::decided::Decided;
use crate::telemetry::{ApiRefusal, Metrics};

/// What gRPC's content types begin with.
const GRPC: &str = "application/grpc";
/// What is asked for with an answer of 401 (RFC 6750 §3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"nigh\"");
/// What the body of such an answer is (RFC 9457).
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What the door works with.
pub(crate) struct Door {
    /// Which tokens there are.
    pub(crate) decided: Decided,
    /// Counts who is turned away.
    pub(crate) metrics: Metrics,
}

/// Lets a request in or answers it here.
pub(crate) async fn authorize(
    State(door): State<Arc<Door>>,
    mut request: Request,
    next: Next,
) -> Response {
    match door.open(&mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => *refusal,
    }
}

impl Door {
    /// Notes with a request who asks, and that they may.
    ///
    /// # Errors
    /// They may not, or nobody may: the answer.
    pub(crate) fn open<B>(&self, request: &mut http::Request<B>) -> Result<(), Box<Response>> {
        let Some(need) = need(request.uri().path()) else {
            return Err(Box::new(not_there(request.headers())));
        };
        let shown = {
            let decision = self.decided.now();
            let given = request.headers().get(header::AUTHORIZATION);
            identify(&decision.state, given, clock::now_ms())
        };
        // From here on nobody needs it, and what is not there cannot be logged.
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Need::Role(role) = need
            && let Err(denied) =
                shown.as_ref().map_err(Clone::clone).and_then(|caller| caller.must_be(role))
        {
            self.metrics.api_refused(match denied {
                Denied::RoleTooLow { .. } => ApiRefusal::Denied,
                _ => ApiRefusal::Unauthenticated,
            });
            return Err(Box::new(refuse(request.headers(), &denied)));
        }
        request.extensions_mut().insert(Shown(shown));
        Ok(())
    }
}

/// Who stands behind a change that is asked for here.
///
/// # Errors
/// Nobody does: the door was left open.
pub(crate) fn actor<T>(request: &tonic::Request<T>, entry: NodeId) -> Result<Actor, Status> {
    let Some(Shown(shown)) = request.extensions().get::<Shown>() else {
        return Err(Status::internal("a change was asked for past the door"));
    };
    let caller = shown.as_ref().map_err(Denied::status)?;
    let from = request.remote_addr().map(|from| from.to_string()).unwrap_or_default();
    Ok(Actor { token: caller.token.clone(), name: caller.name.clone(), from, entry })
}

fn refuse(headers: &HeaderMap, denied: &Denied) -> Response {
    if is_grpc(headers) {
        return denied.status().into_http::<Body>();
    }
    let status = StatusCode::from_u16(denied.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    let reason = denied.reason();
    let body = serde_json::json!({
        "type": format!("urn:nigh:error:{reason}"),
        "status": status.as_u16(),
        "detail": denied.to_string(),
        "reason": reason,
    });
    let kind = [(header::CONTENT_TYPE, PROBLEM_JSON)];
    let mut response = (status, kind, format!("{body}\n")).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    response
}

/// The answer to what is not in the table of `roles`; it says the same to everybody.
fn not_there(headers: &HeaderMap) -> Response {
    if is_grpc(headers) {
        return Status::unimplemented("this version has no such method").into_http::<Body>();
    }
    let hint = "no such path: this is the API port, which speaks gRPC and answers /healthz, \
                /readyz and /metrics; functions are called on the HTTP port\n";
    (StatusCode::NOT_FOUND, hint).into_response()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(GRPC.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: Option<&'static str>) -> Response {
        let mut headers = HeaderMap::new();
        headers.extend(kind.map(|kind| (header::CONTENT_TYPE, kind.parse().unwrap())));
        not_there(&headers)
    }

    #[tokio::test]
    async fn an_unknown_path_is_answered_in_the_language_of_the_asker() {
        for kind in [None, Some("application/json")] {
            let answer = answer(kind);
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            let body = axum::body::to_bytes(answer.into_body(), 1_000).await.unwrap();
            let line = String::from_utf8(body.to_vec()).unwrap();
            assert!(line.contains("API port") && line.lines().count() == 1, "{line}");
        }
        for kind in ["application/grpc", "application/grpc+proto"] {
            let answer = answer(Some(kind));
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["grpc-status"], "12", "UNIMPLEMENTED");
        }
    }
}
