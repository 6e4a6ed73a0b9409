//! `octet train` as a new user meets it: mistakes that are told at once, several teachers, and a run that is killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::process::{Running, octet, succeed};

const ENCODER: &str = "tests/goldens/bert";

/// A folder for the files of one test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// 64 texts whose class one word tells; `flipped` gives the other class.
    fn texts(&self, name: &str, flipped: bool) -> PathBuf {
        let row = |i: usize| {
            let (word, place) = (["good", "bad"][i % 2], ["rain", "sun", "time"][i % 3]);
            format!("the {word} film in {place},{}\n", ["positive", "negative"][(i + usize::from(flipped)) % 2])
        };
        self.write(name, &format!("text,label\n{}", (0..64).map(row).collect::<String>()))
    }

    /// `octet train` of the folder `name` on one file of texts, with its run in `NAME-run`.
    fn train(&self, name: &str, texts: &Path) -> std::process::Command {
        let mut command = octet();
        command.arg("train").arg(self.path(name)).args(["--encoder", ENCODER]);
        command.arg("--train").arg(texts).arg("--dev").arg(texts);
        command.arg("--run-dir").arg(self.path(&format!("{name}-run")));
        command
    }

    /// The float weights of the run that made `name`.
    fn float(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}-run")).join("model")
    }

    fn weights(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name).join("model.safetensors")).unwrap()
    }
}

/// The last row of the table of epochs: number, train loss, dev loss, dev accuracy.
fn last_epoch(printed: &str) -> Vec<f64> {
    let is_row = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit()) && !line.contains("texts of");
    let row = printed.lines().rfind(is_row).unwrap_or_else(|| panic!("no table in {printed}"));
    row.split_whitespace().filter_map(|cell| cell.parse().ok()).collect()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_student_of_two_teachers_learns_their_average() {
    let scratch = Scratch::new();
    let (texts, flipped) = (scratch.texts("texts.csv", false), scratch.texts("flipped.csv", true));
    let rates = ["--epochs", "15", "--patience", "15", "--batch-size", "8", "--dropout", "0"];
    let steps = ["--learning-rate", "1e-3", "--head-learning-rate", "5e-3"];
    for (name, texts) in [("right", &texts), ("wrong", &flipped)] {
        succeed(scratch.train(name, texts).args(rates).args(steps));
    }
    let (right, wrong) = (scratch.float("right"), scratch.float("wrong"));
    let loss_of_student = |name: &str, teachers: &[&Path]| {
        let teachers: Vec<&str> = teachers.iter().map(|teacher| teacher.to_str().unwrap()).collect();
        let only = ["--teacher-weight", "1", "--hidden-weight", "0", "--teacher", &teachers.join(",")];
        last_epoch(&succeed(scratch.train(name, &texts).args(rates).args(steps).args(only)))[2]
    };
    let of_right = loss_of_student("of-right", &[&right]);
    let of_wrong = loss_of_student("of-wrong", &[&wrong]);
    let of_both = loss_of_student("of-both", &[&right, &wrong]);
    // All texts are alike, so a loss is the logarithm of the right class's probability; those are averaged.
    assert!(of_right < 0.1 && of_wrong > 1.0, "{of_right}, {of_wrong}");
    let average = -(((-of_right).exp() + (-of_wrong).exp()) / 2.0).ln();
    assert!((of_both - average).abs() < 0.03, "{of_both}, expected {average} of {of_right} and {of_wrong}");
}

#[test]
fn a_run_that_is_killed_goes_on_with_the_same_bits() {
    let scratch = Scratch::new();
    let texts = scratch.texts("texts.csv", false);
    let long = ["--epochs", "120", "--patience", "120", "--batch-size", "4", "--learning-rate", "1e-4"];
    let never_stopped = succeed(scratch.train("whole", &texts).args(long));

    let killed = scratch.train("killed", &texts).args(long).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut killed = Running(killed.unwrap());
    let told = BufReader::new(killed.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    // The second epoch's checkpoint is whole when the third epoch is told, whose own is just being written.
    assert!(told.into_iter().any(|line| line.starts_with("epoch 3:")), "the third epoch is told");
    killed.0.kill().unwrap();
    assert!(!killed.0.wait().unwrap().success());
    assert!(!scratch.path("killed").exists(), "it was killed before its end");

    let again = scratch.train("killed", &texts).args(long).output().unwrap();
    assert!(refused(&again).contains("--resume goes on with it, --force begins anew"), "{again:?}");
    let resumed = succeed(scratch.train("killed", &texts).args(long).arg("--resume"));
    assert!(resumed.contains("epoch 120:") && !resumed.contains("epoch 2:"), "it goes on where it was: {resumed}");
    assert_eq!(last_epoch(&resumed), last_epoch(&never_stopped));
    assert!(scratch.weights("killed") == scratch.weights("whole"), "the weights are those of a run never stopped");
}

#[test]
fn a_finished_run_leaves_its_model_as_it_is_and_writes_one_that_is_missing() {
    let scratch = Scratch::new();
    let texts = scratch.texts("texts.csv", false);
    let short = ["--epochs", "2"];
    succeed(scratch.train("model", &texts).args(short));
    succeed(octet().arg("eval").arg(scratch.path("model")).arg("--data").arg(&texts).arg("--write"));
    let read = |file: &str| std::fs::read(scratch.path("model").join(file)).unwrap();
    let files = ["quant.json", "README.md", "model.safetensors"];
    let before = files.map(read);
    let resume = || succeed(scratch.train("model", &texts).args(short).arg("--resume"));
    let told = resume();
    assert!(told.contains("is the model of this run, which is finished, and stays as it is"), "{told}");
    assert!(files.map(read) == before, "stored scores and weights stay");

    std::fs::remove_dir_all(scratch.path("model")).unwrap();
    assert!(resume().contains("weights of epoch"));
    assert!(read("model.safetensors") == before[2], "what is missing is written again");
    // A folder of other weights is none of this run: as that of a run that was stopped, it is replaced.
    succeed(scratch.train("other", &texts).args(short).args(["--seed", "2"]));
    std::fs::remove_dir_all(scratch.path("model")).unwrap();
    std::fs::rename(scratch.path("other"), scratch.path("model")).unwrap();
    assert!(resume().contains("weights of epoch"));
    assert!(read("model.safetensors") == before[2]);
}

#[test]
fn a_run_that_diverges_says_so_again_when_it_is_resumed() {
    let scratch = Scratch::new();
    let texts = scratch.texts("texts.csv", false);
    let rates = ["--batch-size", "64", "--learning-rate", "1e30", "--head-learning-rate", "1e30", "--warmup", "0"];
    // In the first the numbers are lost on dev of the only epoch, in the second there is a step after it.
    for (name, epochs, told) in [("one", "1", "no numbers, so no model is written"), ("two", "2", "training diverged")]
    {
        for resume in [&[][..], &["--resume"]] {
            let output = scratch.train(name, &texts).args(rates).args(["--epochs", epochs]).args(resume).output();
            let error = refused(&output.unwrap());
            assert!(error.contains(told) && error.contains("begin anew with --force"), "{error}");
        }
        assert!(!scratch.path(name).exists());
    }
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let scratch = Scratch::new();
    let texts = scratch.texts("texts.csv", false);
    let told = |texts: &Path, args: &[&str], parts: &[&str]| {
        let error = refused(&scratch.train("model", texts).args(args).output().unwrap());
        for part in parts {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert!(!scratch.path("model").exists() && !scratch.path("model-run").exists(), "{args:?} wrote something");
    };
    told(&scratch.write("a.csv", "text;label\nx, y;a\n"), &[], &["found text;label", "separated by \";\"", "commas"]);
    told(&scratch.write("b.csv", "review,label\nx,a\n"), &[], &["found review, label", "--text-column"]);
    told(
        &scratch.write("c.csv", "text,stars\nx,a\n"),
        &[],
        &["c.csv (found text, stars): no training text has a label", "--label-column"],
    );
    told(&scratch.write("d.csv", "text,label\nx,a\ny,a\n"), &[], &["d.csv: the only class is \"a\""]);
    told(
        &texts,
        &["--labels", "good,positive"],
        &["texts.csv: line 3 has label \"negative\", expected good, positive"],
    );
    told(&texts, &["--teacher-weight", "0.9"], &["--teacher-weight means nothing without --teacher"]);

    // A teacher gives what the student gives, and can be cut into heads.
    let number = scratch.write("e.csv", "text,label,rating\nthe good film,positive,3\nthe bad film,negative,-2\n");
    succeed(scratch.train("joint", &number).args(["--value", "valence", "--epochs", "1"]));
    let joint = scratch.float("joint");
    let joint = ["--teacher", joint.to_str().unwrap()];
    let differ =
        "gives one of 2 classes (negative, positive) and the number \"valence\"; this run learns one of 2 classes";
    told(&texts, &joint, &[differ]);
    let heads = ["--value", "valence", "--relation-weight", "1", "--relation-heads", "7"];
    let allowed = "--relation-heads is 7, must divide the vectors of student and teachers: one of 1, 2, 4, 8, 16, 32";
    told(&number, &[&joint[..], &heads].concat(), &[allowed]);
}

#[test]
fn the_folder_of_a_run_replaces_nothing_that_is_read_and_is_no_model() {
    let scratch = Scratch::new();
    let texts = scratch.texts("texts.csv", false);
    let train = |destination: &Path, run: &Path, encoder: &Path| {
        let mut command = octet();
        command.arg("train").arg(destination).arg("--run-dir").arg(run).arg("--encoder").arg(encoder);
        command.arg("--train").arg(&texts).arg("--dev").arg(&texts).args(["--epochs", "1", "--force"]);
        command
    };
    let (model, run, encoder) = (scratch.path("model"), scratch.path("run"), Path::new(ENCODER));
    let file = scratch.write("file", "mine");
    for taken in [file.clone(), file.join("run")] {
        let error = refused(&train(&model, &taken, encoder).output().unwrap());
        assert!(error.contains("file: exists and is not a folder") && error.contains("--run-dir"), "{error}");
    }
    for (destination, run) in [(&run, run.clone()), (&run.join("model"), run.clone()), (&model, model.join("run"))] {
        let error = refused(&train(destination, &run, encoder).output().unwrap());
        assert!(error.contains("cannot be written, as the run's folder is"), "{error}");
        assert!(!run.exists(), "{error}");
    }
    succeed(&mut train(&model, &run, encoder));
    let float = std::fs::read(run.join("model/model.safetensors")).unwrap();
    let error = refused(&train(&model, &run, &run.join("model")).output().unwrap());
    assert!(error.contains("is read, and the run would write"), "{error}");
    assert!(std::fs::read(run.join("model/model.safetensors")).unwrap() == float, "what is read is as it was");
    succeed(&mut train(&model, &scratch.path("next"), &run.join("model")));
}

#[test]
fn columns_have_any_name_and_the_next_commands_are_told_as_one_types_them() {
    let scratch = Scratch::new();
    let rows: String =
        (0..16).map(|i| format!("the {} film,{}\n", ["good", "bad"][i % 2], ["a", "b"][i % 2])).collect();
    let texts = scratch.write("texts.csv", &format!("my review,stars\n{rows}"));
    let named = ["--epochs", "1", "--text-column", "my review", "--label-column", "stars"];
    let printed = succeed(scratch.train("model", &texts).args(named));
    let (model, float) = (scratch.path("model"), scratch.float("model"));
    let (model, float) = (model.display(), float.display());
    let next = format!(
        "octet eval {model} --data test.csv --text-column 'my review' --label-column stars --float {float} --write\n  \
         octet serve --model {model}\n"
    );
    assert!(printed.contains(&next) && printed.contains("learns one of 2 classes (a, b)"), "{printed}");
    let recipe = std::fs::read_to_string(scratch.path("model-run/recipe.toml")).unwrap();
    assert!(recipe.contains("text_column = \"my review\"") && !recipe.contains("pair_column"), "{recipe}");
}

#[test]
fn texts_without_a_label_are_told_with_the_columns_that_there_are() {
    let scratch = Scratch::new();
    let csv = scratch.write("texts.csv", "text,stars\ngood,1\nbad,2\n");
    let jsonl = scratch.write("texts.jsonl", "{\"text\":\"good\",\"stars\":\"1\"}\n");
    for texts in [&csv, &jsonl] {
        let told = |output: std::io::Result<Output>| {
            let error = refused(&output.unwrap());
            assert!(error.contains("(found text, stars)") && error.contains("--label-column"), "{error}");
        };
        told(scratch.train("model", texts).output());
        for command in ["eval", "calibrate"] {
            told(octet().args([command, "models/sentiment"]).arg("--data").arg(texts).output());
        }
    }
}

#[test]
fn several_labels_are_measured_as_evaluation_measures_them() {
    let scratch = Scratch::new();
    // One label follows a word, the other does not follow any, so that some texts get one of two.
    let row = |i: usize| {
        let words = ["good", "bad"][i % 2];
        let labels = [["kind", "odd"].as_slice(), &[], &["kind"], &["odd"]][i % 2 + 2 * (i * i / 3 % 2)];
        format!("{}\n", serde_json::json!({"text": format!("the {words} film in rain"), "labels": labels}))
    };
    let texts = scratch.write("texts.jsonl", &(0..60).map(row).collect::<String>());
    let rates = ["--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3", "--head-learning-rate", "5e-3"];
    let printed = succeed(scratch.train("model", &texts).args(rates).arg("--quantization-aware"));
    assert!(printed.contains("dev subset accuracy") && !printed.contains("dev accuracy"), "{printed}");
    let best = printed.split("weights of epoch ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let row = printed.lines().rfind(|line| line.split_whitespace().next() == Some(best)).unwrap();
    let trained: f64 = row.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(trained > 0.0 && trained < 1.0, "{printed}");
    let report = scratch.path("report.json");
    succeed(octet().arg("eval").arg(scratch.path("model")).arg("--data").arg(&texts).arg("--json").arg(&report));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let found = report["accuracy"][0]["subset_accuracy"].as_f64().unwrap();
    assert_eq!(format!("{trained:.4}"), format!("{found:.4}"), "{printed}");
}
