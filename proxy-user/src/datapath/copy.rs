//! The datapath that always works: the daemon reads and writes. No privilege, no kernel program.
//! It is the reference that all others are tested against.

use std::io;

use proxy_ebpf::TargetKey;

use super::{Call, Connection, Datapath, Sever, crew::Crew};

#[derive(Debug)]
pub struct Copy {
    crew: Crew,
}

impl Copy {
    pub fn start(workers: usize) -> io::Result<Self> {
        Ok(Self { crew: Crew::start("copy", workers, |_| Ok((None, None)))? })
    }
}

impl Datapath for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn adopt(&self, connection: Connection) {
        self.crew.adopt(connection);
    }

    fn dial(&self, call: Call) {
        self.crew.dial(call);
    }

    fn sever(&self, order: &Sever) {
        self.crew.sever(order);
    }

    fn resume(&self, key: TargetKey) {
        self.crew.resume(key);
    }
}
