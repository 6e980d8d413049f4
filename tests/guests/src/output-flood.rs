//! Writes to stdout for ever, as much at a time as the host takes; errors do not stop it.

const FLOOD_BYTES: usize = 1024 * 1024;

hostile_guests::guest!(|_, _| {
    let flood = vec![b'!'; FLOOD_BYTES];
    let stdout = wasip2::cli::stdout::get_stdout();
    loop {
        let _ = hostile_guests::write_some(&stdout, &flood);
    }
});
