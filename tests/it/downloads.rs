//! Updates that do not come, or come slowly, or are cut off; and uploads of the command line that are refused.

use crate::harness::Daemon;

#[test]
fn files_with_secrets_are_read_within_bounds() {
    let daemon = Daemon::start();
    let words = "cannot read /dev/zero: it has more than 655";
    for args in [
        &["--key-file", "/dev/zero", "status"][..],
        &["--ca-file", "/dev/zero", "status"],
        &["user", "add", "me@example.org", "--password-file", "/dev/zero"],
        &["secret", "set", "it", "--value-file", "/dev/zero"],
    ] {
        let ran = daemon.cli(args);
        let known = ran.err.contains(words) || ran.err.contains("it has more than 1048576");
        assert!(ran.code == 1 && known, "{args:?}: {} {}", ran.code, ran.err);
    }
}
