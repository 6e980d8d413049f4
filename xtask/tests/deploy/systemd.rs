//! The systemd unit.

use crate::yaml::text;

#[test]
fn the_unit_keeps_what_its_score_stands_on() {
    let unit = text("systemd/nigh.service");
    let lines: Vec<&str> = unit.lines().collect();
    for line in [
        "Type=notify",
        "DynamicUser=yes",
        "StateDirectory=nigh",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateDevices=yes",
        "RestrictNamespaces=yes",
        "SystemCallFilter=@system-service",
        "UMask=0077",
    ] {
        assert!(lines.contains(&line), "no {line}");
    }
    // Compiled functions are mapped as code.
    assert!(!lines.iter().any(|line| line.starts_with("MemoryDenyWriteExecute=y")));
    let data = "Environment=NIGH_DATA=/var/lib/nigh";
    assert!(lines.contains(&data), "the folder that the unit makes is the node's");
}

#[test]
fn the_environment_file_holds_settings_and_no_secret() {
    for line in text("systemd/nigh.env").lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        assert!(name.starts_with("NIGH_") && !value.is_empty(), "{line}");
        assert!(!name.contains("TOKEN") || value.starts_with('@'), "{line}");
    }
}
