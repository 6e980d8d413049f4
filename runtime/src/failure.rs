//! How a call ends without a good answer.

use nigh_model::Kind;

/// Why a call has no answer, or why its answer broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// All slots are taken; the guest did not start.
    #[error("no free instance slot on this node")]
    NoSlot,
    /// The engine shuts down; the guest did not start, or was cut off.
    #[error("this node is shutting down")]
    Stopping,
    /// The guest trapped or exited with a failure.
    #[error("the function trapped: {message}")]
    Trap {
        /// The trap.
        message: String,
    },
    /// The guest ended because it was refused more memory.
    #[error("the function reached its memory limit of {limit_bytes} bytes")]
    Memory {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The guest's stack overflowed.
    #[error("the function overflowed its stack")]
    Stack,
    /// The guest used up its CPU time.
    #[error("the function reached its CPU limit of {limit_ms} ms")]
    Cpu {
        /// The limit, in ms.
        limit_ms: u64,
    },
    /// The time of the call was over.
    #[error("the function did not finish within its {limit_ms} ms")]
    Deadline {
        /// What was left of the call's time when the guest was started, in ms.
        limit_ms: u64,
    },
    /// The request body is larger than it may be.
    #[error("the request body exceeds its limit of {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The guest returned without an answer.
    #[error("the function returned without an answer")]
    NoAnswer,
    /// The guest's answer is no valid HTTP response.
    #[error("the function's answer is not valid: {message}")]
    BadAnswer {
        /// What is wrong with it.
        message: String,
    },
    /// The instance could not be made.
    #[error("the function could not be instantiated: {message}")]
    Instantiate {
        /// What the engine said.
        message: String,
    },
    /// A defect of nigh.
    #[error("the runtime failed: {message}")]
    Internal {
        /// What happened.
        message: String,
    },
}

impl Failure {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSlot => Kind::Exhausted,
            Self::Stopping => Kind::Unavailable,
            Self::Deadline { .. } => Kind::Timeout,
            Self::BodyTooLarge { .. } => Kind::Invalid,
            Self::Trap { .. }
            | Self::Memory { .. }
            | Self::Stack
            | Self::Cpu { .. }
            | Self::NoAnswer
            | Self::BadAnswer { .. }
            | Self::Instantiate { .. }
            | Self::Internal { .. } => Kind::Internal,
        }
    }

    /// The stable name of the reason, as in `docs/errors.md`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSlot => "NO_INSTANCE_SLOT",
            Self::Stopping => "NODE_STOPPING",
            Self::Trap { .. } => "GUEST_TRAPPED",
            Self::Memory { .. } => "MEMORY_LIMIT",
            Self::Stack => "STACK_OVERFLOW",
            Self::Cpu { .. } => "CPU_LIMIT",
            Self::Deadline { .. } => "TIME_LIMIT",
            Self::BodyTooLarge { .. } => "BODY_TOO_LARGE",
            Self::NoAnswer => "NO_ANSWER",
            Self::BadAnswer { .. } => "BAD_ANSWER",
            Self::Instantiate { .. } => "INSTANTIATE_FAILED",
            Self::Internal { .. } => "RUNTIME_INTERNAL",
        }
    }

    /// The HTTP status that a caller sees.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::BodyTooLarge { .. } => 413,
            Self::Trap { .. }
            | Self::Memory { .. }
            | Self::Stack
            | Self::Cpu { .. }
            | Self::Instantiate { .. }
            | Self::Internal { .. } => 500,
            Self::NoAnswer | Self::BadAnswer { .. } => 502,
            Self::NoSlot | Self::Stopping => 503,
            Self::Deadline { .. } => 504,
        }
    }

    /// Whether the call may be handed to another node: no byte of it reached a guest.
    pub fn refused_before_start(&self) -> bool {
        matches!(self, Self::NoSlot)
    }
}
