//! Who may call: everybody, or for an app that is closed whoever holds a token of the cluster.
//!
//! Looked at where a call enters; between nodes calls are not looked at again.

use http::{HeaderMap, HeaderName};
use nigh_model::access::Role;
use nigh_model::spec::Invoke;

use super::problem::Problem;
use super::{Gateway, reasons};
use crate::access::{Caller, Denied, identify};
use crate::clock;
use crate::decided::Target;

/// Where callers over HTTP show their token: `authorization` is the function's own. What begins
/// with `nigh-` reaches no function.
pub(super) const NIGH_AUTHORIZATION: HeaderName = HeaderName::from_static("nigh-authorization");
/// What a caller of a closed app must be at least.
const NEEDED: Role = Role::Viewer;

impl Gateway {
    /// Lets a call over HTTP in, if its caller may call this.
    pub(super) fn let_in(&self, target: &Target, headers: &HeaderMap) -> Result<(), Problem> {
        check(target, || {
            let decision = self.core().decided.now();
            identify(&decision.state, headers.get(NIGH_AUTHORIZATION), clock::now_ms())
        })
        .map_err(|problem| problem.hint(Some(format!("send `{NIGH_AUTHORIZATION}: Bearer TOKEN`"))))
    }
}

/// Lets a call in, if its caller may call this. Who calls an open app is not asked.
pub(super) fn check(
    target: &Target,
    who: impl FnOnce() -> Result<Caller, Denied>,
) -> Result<(), Problem> {
    if target.invoke == Invoke::Open {
        return Ok(());
    }
    who().and_then(|caller| caller.must_be(NEEDED)).map_err(|denied| {
        let reason = match denied {
            Denied::NoToken => reasons::NO_TOKEN,
            Denied::Expired(_) => reasons::TOKEN_EXPIRED,
            _ => reasons::TOKEN_INVALID,
        };
        let why = match denied {
            Denied::NoToken => "no token was shown".to_owned(),
            denied => denied.to_string(),
        };
        Problem::new(reason, format!("app `{}` is closed: {why}", target.app))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::access::TokenId;
    use nigh_model::{AppName, Digest, FunctionName, FunctionRef, FunctionSpec, RevisionId};

    fn target(invoke: Invoke) -> Target {
        Target {
            app: AppName::new("shop").unwrap(),
            function: FunctionRef {
                revision: RevisionId(1),
                function: FunctionName::new("f").unwrap(),
            },
            spec: FunctionSpec::new(Digest::of(b"x"), 1).into(),
            routes: [].into(),
            invoke,
        }
    }

    #[test]
    fn who_calls_an_open_app_is_not_asked() {
        check(&target(Invoke::Open), || panic!("asked")).unwrap();
    }

    #[test]
    fn a_closed_app_is_called_by_holders_of_tokens_alone() {
        let closed = target(Invoke::Closed);
        let id = TokenId::from_bytes([1; 8]);
        let role = Role::Viewer;
        check(&closed, || Ok(Caller { token: id.clone(), name: String::new(), role })).unwrap();
        for (denied, reason) in [
            (Denied::NoToken, reasons::NO_TOKEN),
            (Denied::Unknown, reasons::TOKEN_INVALID),
            (Denied::Expired(id), reasons::TOKEN_EXPIRED),
        ] {
            let problem = check(&closed, || Err(denied)).unwrap_err();
            assert_eq!(problem.reason(), reason);
            assert!(problem.to_string().contains("`shop` is closed"), "{problem}");
        }
    }
}
