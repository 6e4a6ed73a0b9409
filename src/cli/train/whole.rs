//! Fine-tuning of a whole encoder.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::architectures::{self, Architecture, Pooling, ProblemType, trained_head};
use crate::checkpoint::{
    Existing, LayerConfig, ModelDir, ModelFiles, QuantManifest, card, update_manifest, write_model,
};
use crate::data::read_with;
use crate::kernels::Kernels;
use crate::nn::{FakeQuantization, Products};
use crate::quantize::{Module, QuantizeOptions, Recipe as Scheme, Rounding, quantize};
use crate::text::Tokenizer;
use crate::train::{
    Dataset, EpochRecord, Event, FineTuneSettings, FineTuned, Lesson, Network, NetworkOptions, Task, Teacher,
    ValueScale, check_encoder, fine_tune,
};

use super::super::columns::labelled;
use super::super::quantize::read_recipe;
use super::super::table::{Table, megabytes};
use super::super::{Common, progress, threads};
use super::recipe::{Options, Recipe};
use super::{TrainArgs, curves, label_maps, print_next, stored};

pub(super) fn run(args: &TrainArgs, recipe: &Recipe, common: &Common) -> anyhow::Result<()> {
    let engine = common.settings(Vec::new())?;
    let (options, settings) = (&recipe.options, &recipe.settings);
    let products = products(settings)?;
    let encoder = recipe.path(&options.encoder, "encoder")?;
    let (train_path, dev_path) = (recipe.path(&options.train, "train")?, recipe.path(&options.dev, "dev")?);
    let dir = ModelDir::open(encoder)?;
    let read = |path| read_with(path, &recipe.columns(), usize::MAX);
    let (train, dev) = (read(train_path)?, read(dev_path)?);
    let task = match &options.regression {
        Some(name) => Task::regression(name.clone()),
        None => Task::classify(&train, options.labels.as_deref().unwrap_or_default(), options.value.clone())
            .with_context(|| labelled(train_path, &recipe.columns(), &train))?,
    };
    let own = dir.pooling().map(|p| p.pooling).filter(|p| *p != Pooling::Max);
    let pooling = options.pooling.or(own).unwrap_or(Pooling::Cls);
    let scale = ValueScale::of(&train);
    check_encoder(&dir)?;
    let weights = dir.weights()?;
    let architecture = architectures::describe(dir.config(), &|name| weights.contains(name))?;
    let tokenizer = Tokenizer::from_file(&dir.tokenizer_path())?;
    let longest = settings.max_tokens.min(architecture.spec.max_tokens());
    let train = Dataset::new(&train, &task, &tokenizer, longest, train_path)?;
    let dev = Dataset::new(&dev, &task, &tokenizer, longest, dev_path)?;
    let (scheme, learned) = scheme(options, &architecture)?;
    let layers = options.layers.as_deref();
    let quantization = match options.quantization_aware {
        Some(true) => stored::plan(&dir, &architecture, layers, &scheme, learned, &train)?,
        _ => FakeQuantization::new(),
    };
    let (layers, seed) = (options.layers.clone(), settings.seed);
    let network_options = NetworkOptions { pooling, scale, layers, quantization, products, seed };
    let network = Network::load(&dir, &task, &network_options)?;
    let teacher = match &options.teacher {
        Some(folders) => {
            let networks = folders.iter().map(|folder| load_teacher(folder, &dir, &task, scale, products));
            let teacher = Teacher::new(networks.collect::<anyhow::Result<_>>()?);
            teacher.check(&network, settings)?;
            Some(teacher)
        }
        None => None,
    };

    let run_dir = args.run_dir();
    let checkpoints = run_dir.join("checkpoint");
    let has_checkpoint = checkpoints.join("state.safetensors").exists();
    if args.force && has_checkpoint {
        std::fs::remove_dir_all(&checkpoints).with_context(|| format!("cannot remove {}", checkpoints.display()))?;
    }
    ensure!(
        args.force || args.resume || !has_checkpoint,
        "{} holds a run that was begun; --resume goes on with it, --force begins anew",
        run_dir.display()
    );
    ensure!(!args.resume || has_checkpoint, "{} holds no checkpoint to resume from", run_dir.display());
    if args.resume {
        recipe.ensure_goes_on(&run_dir.join("recipe.toml"))?;
    }
    write(&run_dir, "recipe.toml", &recipe.to_toml())?;
    println!(
        "{} texts of {:.1} tokens, {:.1} million values to train; learns {}",
        train.len(),
        train.tokens() as f64 / train.len() as f64,
        network.parameters() as f64 / 1e6,
        answers(task.problem_type, &task.labels, task.value.as_deref())
    );
    let name = args.destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bar = progress::bar(1, "train");
    let mut steps = 1;
    let (mut mean, mut failed, mut training, mut since) = (None, None, Duration::ZERO, Instant::now());
    let mut is_finished = args.resume;
    let measure = measure(task.problem_type);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(&engine)).thread_name(|i| format!("train-{i}"));
    let found = pool.build().context("cannot start threads")?.install(|| {
        let lesson = Lesson { task: &task, train: &train, dev: &dev, scale, teacher: teacher.as_ref() };
        fine_tune(&network, lesson, settings, Some(&checkpoints), |event| match event {
            Event::Step { record, steps: all } => {
                is_finished = false;
                steps = all;
                training += since.elapsed();
                since = Instant::now();
                let smooth = mean.map_or(record.loss, |mean| 0.98 * mean + 0.02 * record.loss);
                mean = Some(smooth);
                bar.set_length(all as u64);
                bar.set_position(record.step as u64);
                bar.set_message(format!("loss {smooth:.4}"));
            }
            Event::Epoch { record, best, history } => {
                bar.suspend(|| {
                    let is_pruning = settings.prunes() && settings.pruned(history.steps.len() - 1, steps) < 1.0;
                    let mark = match (best, is_pruning) {
                        (true, _) => "",
                        (false, true) => ", still pruning",
                        (false, false) => ", no better",
                    };
                    let [epoch, loss, dev_loss, accuracy, pearson] = cells(&record);
                    eprintln!(
                        "epoch {epoch}: loss {loss}, dev loss {dev_loss}, {measure} {accuracy}, correlation {pearson}{mark}; \
                         steps took {:.1} s",
                        training.as_secs_f64()
                    );
                });
                let page = curves::page(&name, measure, history, if best { record.epoch } else { 0 });
                (training, since) = (Duration::ZERO, Instant::now());
                failed = failed.take().or(write(&run_dir, "curves.html", &page).err());
            }
        })
    })?;
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error);
    }
    let mut table = Table::new(["epoch", "train loss", "dev loss", &format!("dev {measure}"), "dev correlation"]);
    found.history.epochs.iter().for_each(|record| table.row(cells(record)));
    println!("{table}");
    write(&run_dir, "curves.html", &curves::page(&name, measure, &found.history, found.epoch))?;
    if settings.prunes_structures() {
        println!("{}", what_is_left(&found.layers, network.layers()));
    }
    let config = model_config(&dir, &task, pooling, &found.layers);
    let float = write_float(&run_dir.join("model"), encoder, config, &found)?;
    if is_finished && is_made_of(&args.destination, &float, &found) {
        let model = args.destination.display();
        println!("{model}: is the model of this run, which is finished, and stays as it is; --force begins anew");
        return Ok(());
    }
    export(args, recipe, &float, scheme, &found)
}

/// What `octet eval` calls the share of texts that are wholly right.
fn measure(problem_type: ProblemType) -> &'static str {
    match problem_type {
        ProblemType::MultiLabel => "subset accuracy",
        ProblemType::SingleLabel | ProblemType::Regression => "accuracy",
    }
}

/// Number, train loss, dev loss, accuracy and correlation of an epoch; `-` for what the task does not have.
fn cells(record: &EpochRecord) -> [String; 5] {
    let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
    let EpochRecord { epoch, train_loss, dev } = record;
    let [dev_loss, accuracy, pearson] = [Some(f64::from(dev.loss)), dev.accuracy, dev.pearson].map(number);
    [epoch.to_string(), format!("{train_loss:.4}"), dev_loss, accuracy, pearson]
}

/// The recipe by which the model is stored, and whether its scales are learned.
fn scheme(options: &Options, architecture: &Architecture) -> anyhow::Result<(Scheme, bool)> {
    let scheme = options.scheme_recipe.as_deref().map_or_else(|| Ok(Scheme::default()), read_recipe)?;
    if options.quantization_aware == Some(true) {
        ensure!(
            scheme.smoothing.is_none(),
            "{} smooths, which training does not see; leave \"smoothing\" out of --scheme-recipe: training itself balances \
             weights and inputs",
            scheme.scheme
        );
        // Every weight is rounded as training saw it, and biases learned what they could.
        let scheme = Scheme { rounding: Rounding::Nearest, bias_correction: false, ..scheme };
        return Ok((scheme, options.learned_scales.unwrap_or(options.scheme_recipe.is_some())));
    }
    ensure!(options.learned_scales != Some(true), "--learned-scales means nothing without --quantization-aware");
    let modules = Module::all(&architecture.encoder, architecture.spec.hidden_size);
    ensure!(
        !modules.iter().any(|module| stored::is_static(&scheme, module)),
        "{} has static inputs, whose ranges are learned with --quantization-aware; without, leave --scheme-recipe out \
         and give the trained model/ to octet quantize --calibrate",
        scheme.scheme
    );
    Ok((scheme, false))
}

/// What products run in.
fn products(settings: &FineTuneSettings) -> anyhow::Result<Products> {
    if !settings.bf16 {
        return Ok(Products::F32);
    }
    let kernels = Kernels::detect();
    ensure!(
        kernels.has_bf16(),
        "--bf16 needs a CPU with AMX, this one has {}; leave it out to train in f32",
        kernels.isa()
    );
    Ok(Products::Bf16(kernels))
}

/// What a model gives, in words: `one of 2 classes (bad, good) and the number "valence"`.
fn answers(problem_type: ProblemType, labels: &[String], value: Option<&str>) -> String {
    let (count, names) = (labels.len(), labels.join(", "));
    let labels = match problem_type {
        ProblemType::Regression => return format!("the number \"{names}\""),
        ProblemType::SingleLabel => format!("one of {count} classes ({names})"),
        ProblemType::MultiLabel => format!("any of {count} classes ({names})"),
    };
    value.map_or(labels.clone(), |value| format!("{labels} and the number \"{value}\""))
}

/// A teacher of the same task, with the same tokens.
fn load_teacher(
    folder: &Path,
    student: &ModelDir,
    task: &Task,
    scale: ValueScale,
    products: Products,
) -> anyhow::Result<Network> {
    let dir = ModelDir::open(folder)?;
    let head = trained_head(dir.config()).with_context(|| {
        format!("{}: a teacher needs a head that octet train made; give the model/ of an earlier run", folder.display())
    })?;
    let same = head.labels == task.labels && head.value == task.value && head.problem_type == task.problem_type;
    ensure!(
        same,
        "{}: this teacher gives {}; this run learns {}; both must be the same, in the same order (--labels, --value, \
         --regression)",
        folder.display(),
        answers(head.problem_type, &head.labels, head.value.as_deref()),
        answers(task.problem_type, &task.labels, task.value.as_deref())
    );
    ensure!(
        dir.tokenizer_digest()? == student.tokenizer_digest()?,
        "{}: has another tokenizer than {}; teacher and student must read the same tokens",
        folder.display(),
        student.path().display()
    );
    let options = NetworkOptions {
        pooling: head.pooling,
        scale,
        layers: None,
        quantization: FakeQuantization::new(),
        products,
        seed: 0,
    };
    Ok(Network::load(&dir, task, &options)?)
}

/// How many heads and neurons there are after pruning, and were before.
fn what_is_left(after: &[LayerConfig], before: &[LayerConfig]) -> String {
    let heads = |layers: &[LayerConfig]| layers.iter().map(|layer| layer.heads.len()).sum::<usize>();
    let neurons = |layers: &[LayerConfig]| layers.iter().map(|layer| layer.intermediate_size).sum::<usize>();
    let each: Vec<_> = after.iter().map(|l| format!("{} and {}", l.heads.len(), l.intermediate_size)).collect();
    format!(
        "{} of {} heads and {} of {} feed-forward neurons are left; by layer {}",
        heads(after),
        heads(before),
        neurons(after),
        neurons(before),
        each.join(", ")
    )
}

/// The `config.json` of a trained model.
pub(super) fn model_config(
    encoder: &ModelDir,
    task: &Task,
    pooling: Pooling,
    layers: &[LayerConfig],
) -> Map<String, Value> {
    let mut config = encoder.config().raw.clone();
    for key in ["num_labels", "quantization_config"] {
        config.shift_remove(key);
    }
    encoder.config().write_layers(layers, &mut config);
    let problem_type = match task.problem_type {
        ProblemType::SingleLabel => "single_label_classification",
        ProblemType::MultiLabel => "multi_label_classification",
        ProblemType::Regression => "regression",
    };
    config.insert("problem_type".into(), problem_type.into());
    config.extend(label_maps(&task.labels));
    let mut head = json!({"pooling": pooling});
    if let Some(value) = &task.value {
        head["value"] = json!(value);
    }
    config.insert("octet".into(), json!({"head": head}));
    config
}

/// Writes the weights of the best epoch in f32.
fn write_float(
    folder: &Path,
    encoder: &Path,
    config: Map<String, Value>,
    found: &FineTuned,
) -> anyhow::Result<ModelDir> {
    ensure!(
        found.dev.score().is_finite(),
        "the scores on dev are no numbers, so no model is written; lower --learning-rate or --head-learning-rate, and \
         begin anew with --force"
    );
    let files =
        ModelFiles { config, tensors: found.tensors.clone(), copy_from: Some(encoder), ..ModelFiles::default() };
    write_model(folder, &files, Existing::Replace)?;
    Ok(ModelDir::open(folder)?)
}

/// Whether a folder holds what a run exports of these float weights, whole.
fn is_made_of(model: &Path, float: &ModelDir, found: &FineTuned) -> bool {
    ModelDir::open(model).is_ok_and(|model| {
        let whole = |m: &QuantManifest| m.temperature.is_some() == found.temperature.is_some();
        model.manifest().is_some_and(|manifest| manifest.source.sha256 == float.digest() && whole(manifest))
    })
}

/// Writes the folder that serves, stored as `scheme` says.
fn export(
    args: &TrainArgs,
    recipe: &Recipe,
    float: &ModelDir,
    scheme: Scheme,
    found: &FineTuned,
) -> anyhow::Result<()> {
    let options = &recipe.options;
    let source = recipe.path(&options.train, "train")?.display().to_string();
    let quantization = QuantizeOptions {
        source_id: options.source_id.clone().unwrap_or(source),
        license: options.license.clone(),
        existing: args.existing(),
        made: stored::made(&found.stored),
        recipe: scheme,
    };
    let report = quantize(float, &args.destination, &quantization, |_, _| {})?;
    update_manifest(&args.destination, |manifest| manifest.temperature = found.temperature)?;
    card::write(&args.destination).context("cannot write the model card")?;
    let (folder, epoch) = (args.destination.display(), found.epoch);
    let (before, after) = (megabytes(report.f32_bytes), megabytes(report.bytes));
    let scheme = &quantization.recipe.scheme;
    println!("{folder}: weights of epoch {epoch} in {scheme}, {after}; in f32, {before}: {}", float.path().display());
    println!("curves, checkpoint and recipe: {}", args.run_dir().display());
    print_next(&args.destination, recipe, Some(float.path()));
    Ok(())
}

fn write(folder: &Path, name: &str, content: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, content)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
