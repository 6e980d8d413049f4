//! Returns without ever setting an answer.

hostile_guests::guest!(|_, _| ());
