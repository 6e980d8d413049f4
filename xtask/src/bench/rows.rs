//! Every number that is asked for: what it is, how good is good enough, and what limits it.
//!
//! The groups measure; this table says what their numbers mean, so that a number nobody measures is
//! missed (`bench` looks) and the page explains each.

use super::compare::Target;

/// A number that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: &'static str,
    /// What measures it.
    pub(super) group: &'static str,
    pub(super) what: &'static str,
    pub(super) target: Option<Target>,
    /// What keeps it from being better.
    pub(super) limited_by: &'static str,
}

/// What became of one.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) asked: &'static Asked,
    pub(super) outcome: Outcome,
}

/// A number, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Measured(Number),
    Skipped(String),
}

/// A number, how far it went up and down, and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    pub(super) value: f64,
    /// The least and the most over the rounds, where there are several.
    pub(super) spread: Option<(f64, f64)>,
    pub(super) made_of: String,
}

/// What a group found, by the names of its rows.
pub(super) type Found = Vec<(&'static str, Outcome)>;

const fn at_least(floor: f64, goal: f64) -> Option<Target> {
    Some(Target::AtLeast { floor, goal })
}

const fn at_most(floor: f64, goal: f64) -> Option<Target> {
    Some(Target::AtMost { floor, goal })
}

/// All of them, in the order of the page.
pub(super) const ROWS: &[Asked] = &[
    Asked {
        name: "hello",
        group: "hello",
        what: "calls/s, a fresh instance each ÷ bare hyper",
        target: at_least(0.40, 0.55),
        limited_by: "Some two fifths are the kernel's: reading, sending, waking the caller, and finding \
                     the pages that a call has touched. wasmtime's instance is an eighth; the rest is \
                     spread over some hundred functions, none of ours with more than 2 %.",
    },
    Asked {
        name: "hello ÷ embedding",
        group: "hello",
        what: "the same ÷ the tuned embedding",
        target: at_least(1.2, 1.7),
        limited_by: "The embedding's guest grows its heap in every call, and its answers wake their \
                     callers one by one; beyond that both pay for the same instance.",
    },
    Asked {
        name: "hello ÷ wasmtime",
        group: "hello",
        what: "the same ÷ `wasmtime serve`",
        target: at_least(3.0, 4.5),
        limited_by: "As above; `wasmtime serve` is as it comes, without a pool.",
    },
    Asked {
        name: "hello CPU",
        group: "hello",
        what: "CPU time of the server per call ÷ bare hyper's",
        target: at_most(3.5, 2.4),
        limited_by: "Instance and host calls, as above; page faults of the fresh memory are counted \
                     too.",
    },
    Asked {
        name: "reuse",
        group: "hello",
        what: "calls/s with `scale.reuse` ÷ bare hyper",
        target: at_least(0.65, 0.80),
        limited_by: "Host calls and headers: an answer of nigh has ten headers more than hyper's.",
    },
    Asked {
        name: "embedding",
        group: "hello",
        what: "calls/s of the tuned embedding ÷ bare hyper",
        target: None,
        limited_by: "For reference: what wasmtime's own HTTP host reaches.",
    },
    Asked {
        name: "crowd",
        group: "crowd",
        what: "p99 with 64 connections ÷ bare hyper's",
        target: at_most(1.5, 1.1),
        limited_by: "Server and client share the cores: with all of them busy, a call waits for the \
                     ones before it, and each of ours takes longer than one of hyper's.",
    },
    Asked {
        name: "h2",
        group: "h2",
        what: "calls/s over HTTP/2 without TLS ÷ hyper's h2",
        target: at_least(0.40, 0.55),
        limited_by: "The same as hello; framing costs both sides the same.",
    },
    Asked {
        name: "grpc",
        group: "grpc",
        what: "calls/s of gRPC `Invoke` over TLS ÷ tonic echo without TLS",
        target: at_least(0.45, 0.60),
        limited_by: "TLS on both ends, which the baseline does not have, and the messages with the \
                     headers in them.",
    },
    Asked {
        name: "forward p50",
        group: "forward",
        what: "p50 of a call that runs on another node ÷ (tonic echo p50 + local p50)",
        target: at_most(1.6, 1.3),
        limited_by: "Two nodes and the client share two cores: a call is the work of both nodes, of which no \
                     part stands out (docs/performance.md).",
    },
    Asked {
        name: "forward",
        group: "forward",
        what: "forwarded calls/s ÷ local calls/s",
        target: at_least(0.40, 0.55),
        limited_by: "As above. Of what either node does HTTP/2 is 7 %, TLS 3 %, allocations 10 %, changes of \
                     threads 10 %; nothing stands out.",
    },
    Asked {
        name: "stream",
        group: "stream",
        what: "10 MiB through a guest and back, throughput ÷ hyper echo",
        target: at_least(0.35, 0.60),
        limited_by: "Every byte is copied into the guest's memory and out of it.",
    },
    Asked {
        name: "stream RSS",
        group: "stream",
        what: "the same, four at once: memory more than before, MiB",
        target: at_most(16.0, 16.0),
        limited_by: "Buffers between sockets and guests, and the guests' own memory.",
    },
    Asked {
        name: "cold p50",
        group: "cold",
        what: "first answer of a function that is compiled and not loaded, less the warm p50: p50, µs",
        target: at_most(200.0, 100.0),
        limited_by: "Reading and checking the compiled file, mapping it and linking it.",
    },
    Asked {
        name: "cold p99",
        group: "cold",
        what: "the same: p99, µs",
        target: at_most(1_000.0, 300.0),
        limited_by: "As above; beyond that a core that others have for a slice: looking at all functions after \
                     loads, which is done twice a second at most.",
    },
    Asked {
        name: "tls cold",
        group: "tls",
        what: "first answer over a new TLS connection whose handshake named the host of a function that \
               was not loaded, from the end of the handshake, less the warm p50: p99, µs",
        target: at_most(1_000.0, 100.0),
        limited_by: "The load begins at the ClientHello and has the rest of the handshake as time: a \
                     signature by the server, its check by the client, and on loopback no round trip \
                     worth the name. What is not done by then, the call waits for.",
    },
    Asked {
        name: "copy",
        group: "copy",
        what: "first answer of a function (60 KB component) whose compiled artifact was lost at the node \
               called and is copied from another one meanwhile, less the warm p50 (a round trip on \
               loopback is below 0.1 ms): median, ms",
        target: at_most(10.0, 5.0),
        limited_by: "A question, the signature's check, the transfer, the sync of the written file, and \
                     its load. Only who should have a function and lost its file waits for this: \
                     other calls are forwarded while it comes.",
    },
    Asked {
        name: "copy large",
        group: "copy",
        what: "the same for a component of 18 MB made here (`hello` and a module of generated functions \
               and data, whose artifact has about the 33 MB of Python's): median, ms",
        target: at_most(150.0, 60.0),
        limited_by: "The artifact passes TLS on both ends, is hashed on both, and written and synced, on \
                     the same two cores and one disk.",
    },
    Asked {
        name: "compilations",
        group: "spread",
        what: "compilations of a component that is deployed to five nodes",
        target: at_most(1.0, 1.0),
        limited_by: "Which nodes trust whose machine code.",
    },
    Asked {
        name: "loaded",
        group: "memory",
        what: "memory of a loaded function, KiB",
        target: at_most(180.0, 120.0),
        limited_by: "The pages of code that a load touches, and wasmtime's tables of types and functions.",
    },
    Asked {
        name: "not loaded",
        group: "memory",
        what: "memory of a deployed function that is not loaded, KiB",
        target: at_most(8.0, 4.0),
        limited_by: "The spec in the state, the routes, and what gossip says of it.",
    },
    Asked {
        name: "restart",
        group: "cold",
        what: "start of a node with 1,000 deployed functions until its first answer, ms",
        target: at_most(400.0, 50.0),
        limited_by: "Reading the log and the state, and looking at what is on disk.",
    },
    Asked {
        name: "commit",
        group: "commit",
        what: "committing 10,000 functions of 20 components from 16 clients, 3 voters, s",
        target: at_most(60.0, 20.0),
        limited_by: "Each commit is synced by three nodes that share a disk; each brings a plan and an \
                     activation after it, all of which every node applies.",
    },
    Asked {
        name: "many",
        group: "commit",
        what: "memory of the largest node afterwards, MiB",
        target: at_most(400.0, 300.0),
        limited_by: "The state, and the functions that are loaded: 4,096 at most.",
    },
    Asked {
        name: "write",
        group: "control",
        what: "p50 of a write of one entry (a token is made), one client, 3 voters ÷ p50 of append + \
               fdatasync",
        target: at_most(4.0, 2.5),
        limited_by: "Some ten changes of threads and processes from the client over the leader to a follower \
                     and back, on two cores, beside which a sync of this disk is short: `etcd \
                     write` is what etcd takes for the same without TLS.",
    },
    Asked {
        name: "deploy",
        group: "control",
        what: "the same for the commit of a deploy, behind the plans and activations of those before",
        target: None,
        limited_by: "As above, and a deploy causes two more entries, which the next one waits behind.",
    },
    Asked {
        name: "etcd write",
        group: "control",
        what: "for reference: p50 of a put of etcd, one client, 3 members, without TLS ÷ p50 of append + fdatasync",
        target: None,
        limited_by: "As write: what is left of it where the disk is fast.",
    },
    Asked {
        name: "writes ÷ etcd",
        group: "control",
        what: "such writes/s of 64 clients ÷ puts/s of etcd, both with 3 voters; TLS ours, none theirs",
        target: at_least(0.8, 1.2),
        limited_by: "TLS between all, and each change passes a state machine that answers it.",
    },
    Asked {
        name: "deploys ÷ etcd",
        group: "control",
        what: "deploys/s of 64 clients ÷ puts/s of etcd",
        target: None,
        limited_by: "A deploy is checked, planned and activated: three entries where etcd has one.",
    },
    Asked {
        name: "sleepers",
        group: "sleepers",
        what: "1,000 guests that sleep at once in one node: added memory of each, KiB",
        target: at_most(200.0, 100.0),
        limited_by: "The touched pages of each guest's memory and stack, and a connection's buffers.",
    },
    Asked {
        name: "overload 2×",
        group: "overload",
        what: "good answers/s when twice the peak is offered in an open loop, of calls of some 5 ms ÷ \
               the peak, which 16 connections reach in a closed loop just before",
        target: at_least(0.90, 0.90),
        limited_by: "The client takes its part of the same cores, and so does each refusal.",
    },
    Asked {
        name: "overload 5×",
        group: "overload",
        what: "the same with five times the peak",
        target: at_least(0.85, 0.85),
        limited_by: "As above.",
    },
    Asked {
        name: "overload 10×",
        group: "overload",
        what: "the same with ten times the peak",
        target: at_least(0.80, 0.80),
        limited_by: "As above.",
    },
    Asked {
        name: "refusals",
        group: "overload",
        what: "answers of refusals, from when the call was sent: p99 in the worst of the three, ms",
        target: at_most(50.0, 50.0),
        limited_by: "A refusal waits for one slice of a guest, and for a core that the client needs too.",
    },
    Asked {
        name: "recovery",
        group: "overload",
        what: "from the end of the overload until the median is within 1.5 times that of before, both at \
               0.3 of the peak: the worst of the three, s",
        target: at_most(5.0, 5.0),
        limited_by: "What was let in before the end. Looked at in windows of 250 ms.",
    },
    Asked {
        name: "overload RSS",
        group: "overload",
        what: "memory more than before, after all three, MiB",
        target: at_most(128.0, 64.0),
        limited_by: "Buffers of 1,000 connections, and the guests' memory that slots keep.",
    },
    Asked {
        name: "flood",
        group: "neighbours",
        what: "p99 of a function at a quarter of the peak beside a flood of five times the peak of another \
               one with the same cost ÷ alone",
        target: at_most(1.3, 1.3),
        limited_by: "Where a flood begins, both functions have had their part so far and share a thread by turns; later a \
                     call waits for a slice of 250 µs, and for a core that both clients use too.",
    },
    Asked {
        name: "flood, short",
        group: "neighbours",
        what: "p99 of `hello`, 300 calls/s, beside the same flood ÷ alone on an idle node",
        target: at_most(1.3, 1.3),
        limited_by: "Alone it waits for nobody. Beside a flood that keeps all cores busy it waits for a slice \
                     of 250 µs, and for a core that the clients use too.",
    },
    Asked {
        name: "loops",
        group: "neighbours",
        what: "p99 of `hello`, 300 calls/s, beside four loops without end on each core − alone, ms",
        target: at_most(5.0, 5.0),
        limited_by: "A slice of 250 µs, and the kernel's turns between the threads of guests and the client.",
    },
    Asked {
        name: "loops elections",
        group: "neighbours",
        what: "elections seen by any of three voters meanwhile",
        target: at_most(0.0, 0.0),
        limited_by: "Raft and gossip run on threads of their own.",
    },
    Asked {
        name: "compile",
        group: "neighbours",
        what: "p99 of `hello`, 300 calls/s, while a component of 18 MB is compiled ÷ alone",
        target: at_most(1.5, 1.5),
        limited_by: "The compiler runs at the lowest priority; caches and memory are shared.",
    },
    Asked {
        name: "herd",
        group: "herd",
        what: "10,000 calls within a second to a function that is not loaded, each on a connection of its \
               own: p99, ms",
        target: at_most(150.0, 150.0),
        limited_by: "The load, and then all that came meanwhile; client and node share the cores.",
    },
    Asked {
        name: "herd lost",
        group: "herd",
        what: "those not answered with 200",
        target: at_most(0.0, 0.0),
        limited_by: "Places of the function (100), which whoever waited for a load waits for up to 2 s.",
    },
    Asked {
        name: "herd loads",
        group: "herd",
        what: "loads that they caused",
        target: at_most(1.0, 1.0),
        limited_by: "A load is shared by all that wait for it.",
    },
    Asked {
        name: "idle RSS",
        group: "idle",
        what: "10,000 connections that have served a call and are kept: memory more than before, MiB",
        target: at_most(200.0, 200.0),
        limited_by: "A task and a socket for each, and what the allocator keeps between them.",
    },
    Asked {
        name: "idle",
        group: "idle",
        what: "calls/s of others beside them ÷ without them",
        target: at_least(0.95, 1.0),
        limited_by: "Nothing is done for a connection on which nothing happens, but for its timer.",
    },
];

/// The row of this name.
pub(super) fn asked(name: &str) -> Option<&'static Asked> {
    ROWS.iter().find(|asked| asked.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::groups;

    #[test]
    fn every_row_has_its_own_name_and_a_group_that_is_there() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(groups::all().iter().any(|group| group.name == row.group), "{}", row.name);
        }
        for group in groups::all() {
            assert!(ROWS.iter().any(|row| row.group == group.name), "{}", group.name);
        }
    }

    #[test]
    fn no_goal_is_behind_its_floor() {
        for target in ROWS.iter().filter_map(|row| row.target) {
            assert_ne!(target.reached(target.numbers().1), super::super::compare::Reached::Neither);
        }
    }
}
