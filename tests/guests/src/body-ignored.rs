//! Answers 200 without a look at the request's body.

hostile_guests::guest!(|_, out| hostile_guests::answer(out, "not read\n"));
