//! Ends the processes of a test even when the test process is killed.
//!
//! A shell reads from a pipe which processes to watch over. When the test process ends, however
//! that comes, the pipe closes, and the shell kills what is still on its list.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

const WATCH: &str = r#"
held=""
while read -r verb pid; do
    case "$verb" in
        hold) held="$held $pid" ;;
        free)
            rest=""
            for each in $held; do [ "$each" = "$pid" ] || rest="$rest $each"; done
            held="$rest"
            ;;
    esac
done
for each in $held; do kill -9 "$each" 2>/dev/null; done
"#;

fn tell(verb: &str, pid: u32) {
    static SHELL: OnceLock<Mutex<Child>> = OnceLock::new();
    let shell = SHELL.get_or_init(|| {
        let started = Command::new("sh")
            .args(["-c", WATCH])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal must not end it before its work is done.
            .process_group(0)
            .spawn();
        // It ends after this process, so nobody waits for it.
        Mutex::new(started.expect("there is a shell"))
    });
    let mut shell = shell.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pipe = shell.stdin.as_mut().expect("it was piped");
    writeln!(pipe, "{verb} {pid}").expect("the shell reads on");
}

/// The process shall not outlive this one.
pub(crate) fn hold(pid: u32) {
    tell("hold", pid);
}

/// The process has ended and its id may be another's soon.
pub(crate) fn free(pid: u32) {
    tell("free", pid);
}
