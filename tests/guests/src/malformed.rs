//! Answers with an error code in place of a response.

use wasip2::http::types::{ErrorCode, ResponseOutparam};

hostile_guests::guest!(|_, out| {
    let code = ErrorCode::InternalError(Some("refused on purpose".into()));
    ResponseOutparam::set(out, Err(code));
});
