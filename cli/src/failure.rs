//! How a command fails: what, why, what to do, and the exit status that scripts read.

use nigh_model::Kind;

/// The result of everything that a command does.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 2;
/// `nigh status` found something that needs attention.
const EXIT_ATTENTION: u8 = 7;
/// `nigh status`: no leader with a quorum is known.
const EXIT_NO_QUORUM: u8 = 8;
/// The function itself answered with a client or server error.
const EXIT_ANSWERED_ERROR: u8 = 22;
/// Stopped by Ctrl-C: what a shell reports of a program that the signal ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Why a command ends without having done what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: u8,
    what: String,
    why: Option<String>,
    reason: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this kind; the kind gives the exit status.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { exit: kind.exit_status(), what: what.into(), why: None, reason: None, hint: None }
    }

    /// Something on the command line, in the environment or in a configuration file.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { exit: EXIT_USAGE, ..Self::new(Kind::Invalid, what) }
    }

    /// Something that was handed in is not as it must be.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, what)
    }

    /// A defect, or a machine that does not do what it should.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// The user pressed Ctrl-C.
    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        Self { exit: EXIT_INTERRUPTED, ..Self::internal(what) }
    }

    /// The function answered with an error; everything worth saying has been printed.
    pub(crate) fn answered_error() -> Self {
        Self { exit: EXIT_ANSWERED_ERROR, ..Self::internal("") }
    }

    /// Something needs attention; everything worth saying has been printed.
    pub(crate) fn needs_attention() -> Self {
        Self { exit: EXIT_ATTENTION, ..Self::internal("") }
    }

    /// Nothing can be changed; everything worth saying has been printed.
    pub(crate) fn no_quorum() -> Self {
        Self { exit: EXIT_NO_QUORUM, ..Self::internal("") }
    }

    /// The same, for those who have said it in another way.
    #[must_use]
    pub(crate) fn said(self) -> Self {
        Self { exit: self.exit, ..Self::internal("") }
    }

    /// Whoever read the output has gone: nothing to say, and nobody to say it to.
    pub(crate) fn reader_gone() -> Self {
        Self { exit: 0, ..Self::internal("") }
    }

    /// Says what it is about, before everything else.
    #[must_use]
    pub(crate) fn about(mut self, name: &str) -> Self {
        self.what = format!("{name}: {}", self.what);
        self
    }

    /// Adds why.
    #[must_use]
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds the stable word that the platform has for it.
    #[must_use]
    pub(crate) fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the nearest right word, when one is near.
    #[must_use]
    pub(crate) fn nearest<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match nigh_model::suggest::nearest(given, known.iter().copied()) {
            Some(nearest) => self.hint(format!("did you mean `{nearest}`?")),
            None if known.is_empty() || known.len() > NAMED_MAX => self,
            None => self.hint(format!("known: {}", known.join(", "))),
        }
    }

    /// The exit status.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }

    /// Whether there is anything to print.
    pub(crate) fn is_silent(&self) -> bool {
        self.what.is_empty()
    }
}

/// Most words that an error lists when none of them is near.
const NAMED_MAX: usize = 12;

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why: {why}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  try: {hint}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, "\n  reason: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new(Kind::NotFound, "no app is named `helo`")
            .why("NO_SUCH_APP")
            .nearest("helo", ["hello", "work"]);
        let text =
            "error: no app is named `helo`\n  why: NO_SUCH_APP\n  try: did you mean `hello`?";
        assert_eq!(failure.to_string(), text);
        assert_eq!(failure.exit(), 3);
    }

    #[test]
    fn exit_statuses_are_those_that_are_documented() {
        let of = |kind| Failure::new(kind, "x").exit();
        assert_eq!(of(Kind::Internal), 1);
        assert_eq!(Failure::usage("x").exit(), 2);
        assert_eq!(of(Kind::NotFound), 3);
        assert_eq!((of(Kind::Invalid), of(Kind::Conflict), of(Kind::Denied)), (4, 4, 4));
        assert_eq!((of(Kind::Unavailable), of(Kind::Exhausted)), (5, 5));
        assert_eq!(of(Kind::Timeout), 6);
        assert_eq!(Failure::answered_error().exit(), 22);
        assert_eq!((Failure::needs_attention().exit(), Failure::no_quorum().exit()), (7, 8));
        let said = Failure::new(Kind::Timeout, "x").said();
        assert_eq!((said.exit(), said.is_silent()), (6, true));
    }
}
