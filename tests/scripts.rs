//! The scripts, the workflow and what they promise of each other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory is in the repository");
    entries.map(|entry| entry.expect("it can be listed").path()).filter(|path| path.is_file()).collect()
}

#[test]
fn each_step_of_the_workflow_is_a_script_that_ci_run_executes() {
    let workflow = read(".github/workflows/ci.yml");
    let commands: Vec<&str> = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: ")).collect();
    assert!(commands.contains(&"scripts/test"));
    assert_eq!(commands.len(), workflow.matches("run:").count(), "a run: in another form");
    let run = read(".ci/run");
    for command in commands {
        assert!(run.lines().any(|line| line == command), ".ci/run does not execute {command}");
        assert!(fs::metadata(command).is_ok_and(|file| file.is_file()), "{command} is no script");
    }
}

#[test]
fn scripts_are_short_executable_and_parse() {
    for path in files("scripts").into_iter().chain([PathBuf::from(".ci/run")]) {
        let name = path.display();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() < 50, "{name}: beyond 50 lines it is a program in Rust");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{name} is not executable");
        let shell = text.lines().next().and_then(|line| line.strip_prefix("#!")).expect("it names its shell");
        let check = Command::new(shell).arg("-n").arg(&path).output().unwrap();
        assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn every_test_program_that_needs_kvm_runs_in_the_lab() {
    let script = read("scripts/test");
    let in_lab: Vec<&str> =
        script.lines().filter(|line| line.contains("scripts/lab ")).flat_map(str::split_whitespace).collect();
    for path in files("tests") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let needs_kvm =
            ["kvm::available", "kvm::lab_kernel"].iter().any(|call| read(path.to_str().unwrap()).contains(call));
        if needs_kvm && name != "scripts" {
            assert!(in_lab.contains(&name), "scripts/test does not run tests/{name}.rs in the lab");
        }
    }
}
