//! Ends a following command when the reader of its output goes away: a pipe whose other end is closed, a terminal that hung
//! up (window closed, ssh lost). Such a command may be blocked reading from mcrd or from the terminal, and with few events
//! its next write may be hours away.

use std::io;
use std::process;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Starts a thread that exits the process with code 0 as soon as standard output has no reader.
pub(crate) fn exit_with_reader() -> io::Result<()> {
    thread::Builder::new().name("hangup".to_owned()).spawn(wait_for_hangup)?;
    Ok(())
}

fn wait_for_hangup() {
    let stdout = io::stdout();
    loop {
        // No event is requested: poll(2) reports POLLHUP and POLLERR always. Files report neither.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) if watched.iter().any(|one| one.revents().intersects(PollFlags::HUP | PollFlags::ERR)) => {
                process::exit(0);
            }
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
