//! Every setting, once: name, type, default, allowed values, and its documentation as the doc comment.
//!
//! The unit of a number is the end of its name: `_ms` and `_us` are milli- and microseconds, `_bytes` bytes,
//! `_tokens` tokens.

use super::value::{Allowed, Share, between, choice, section};

choice! {
    /// Which instruction set the kernels use.
    pub enum IsaChoice {
        /// The best one this CPU has.
        Auto = "auto",
        /// Plain Rust.
        Scalar = "scalar",
        /// AVX2 and FMA.
        Avx2 = "avx2",
        /// AVX-VNNI (256-bit dot products).
        AvxVnni = "avx_vnni",
        /// AVX-512 VNNI.
        Avx512Vnni = "avx512_vnni",
        /// AMX int8 (products of tiles).
        AmxInt8 = "amx_int8",
    }
}

choice! {
    /// Least important events that are logged.
    pub enum LogLevel {
        /// Only faults.
        Error = "error",
        /// And what may become one.
        Warn = "warn",
        /// And the life of the server.
        Info = "info",
        /// And one line per request.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line, for machines.
        Json = "json",
    }
}

choice! {
    /// What happens to a quantized model whose answers differ too much from the float model's.
    pub enum OnFailure {
        /// It is not written, or not served.
        Refuse = "refuse",
        /// It is used, with a warning.
        Warn = "warn",
        /// Layers stay float, those that cost most first, until the bound holds.
        Fallback = "fallback",
    }
}

section! {
    /// The HTTP listener and what it accepts.
    pub struct ServerSettings = "server" {
        /// Address to listen on; 0.0.0.0 (or ::) makes the server reachable from other machines.
        host: String = "127.0.0.1".into(), Allowed::Text;
        /// TCP port; 0 takes a free one.
        port: u16 = 8080, between(0, 65_535);
        /// Connections open at a time; further ones are answered 503 and closed.
        max_connections: usize = 1024, between(1, 1_000_000);
        /// Time a client has to send the request line and headers.
        header_timeout_ms: u64 = 10_000, between(1, 600_000);
        /// Longest pause between two pieces of a request body.
        body_idle_timeout_ms: u64 = 10_000, between(1, 600_000);
        /// Time a client has to send the whole request body.
        body_timeout_ms: u64 = 30_000, between(1, 3_600_000);
        /// How long a client may read nothing of its answer.
        write_timeout_ms: u64 = 30_000, between(1, 3_600_000);
        /// How long a connection may stay open without a request.
        idle_timeout_ms: u64 = 60_000, between(1, 3_600_000);
        /// Largest request body; a text of 1 MB needs room for JSON escapes.
        max_body_bytes: usize = 4_194_304, between(1_024, 1_073_741_824);
        /// Bytes of request bodies held at a time over all connections; a request that does not fit is refused with
        /// 429.
        max_total_body_bytes: usize = 268_435_456, between(1_024, 1_099_511_627_776);
        /// Most inputs in one request.
        max_inputs: usize = 256, between(1, 100_000);
        /// Time to answer a request; a client may ask for less (`timeout_ms`, `X-Request-Timeout-Ms`), never for more.
        request_timeout_ms: u64 = 30_000, between(1, 3_600_000);
        /// At shutdown: how long accepted requests may take to finish.
        drain_timeout_ms: u64 = 20_000, between(0, 3_600_000);
        /// At shutdown: how long to go on accepting after `/readyz` says no, so that load balancers notice.
        lame_duck_ms: u64 = 0, between(0, 600_000);
        /// Refuse requests that have unknown JSON fields instead of ignoring the fields.
        strict: bool = false, Allowed::Bool;
        /// Key that clients send as `Authorization: Bearer KEY`; without one, everybody is answered. Probes, `/metrics`
        /// and the documentation need none. Give it as `OCTET_SERVER_API_KEY`, where no other process reads it.
        api_key: String = String::new(), Allowed::Text;
    }
}

section! {
    /// The machine: threads, instruction set, where models lie.
    pub struct EngineSettings = "engine" {
        /// Compute threads; 0 takes every CPU the process may use (container quota included).
        threads: usize = 0, between(0, 1_024);
        /// Instruction set of the kernels; every one gives the same bits.
        isa: IsaChoice = IsaChoice::Auto, Allowed::OneOf(IsaChoice::NAMES);
        /// Folder of the models that are named without a path.
        models_dir: String = "models".into(), Allowed::Text;
    }
}

section! {
    /// How sequences of different requests share one run of the encoder.
    pub struct BatchingSettings = "batching" {
        /// Most tokens in one batch; a longer sequence runs alone. Larger batches raise throughput a little and
        /// make every request behind them wait longer.
        max_batch_tokens: usize = 4_096, between(1, 1_048_576);
        /// How long a batch that is not full waits for company while another thread computes. 0 never waits: on a
        /// CPU a batch that forms while the threads are busy is already large enough.
        max_wait_us: u64 = 0, between(0, 1_000_000);
        /// Tokens that may wait; a request that does not fit is refused with 429. One request is charged for at most
        /// half of it.
        max_queue_tokens: usize = 262_144, between(1, 1_073_741_824);
    }
}

section! {
    /// How much the answers of a quantized model may differ from those of its float original.
    pub struct QualitySettings = "quality" {
        /// Least agreement: the share of texts with the same label; for sentence vectors, the mean cosine. `octet
        /// quantize` checks it when it is given texts, `octet serve` for models whose `quant.json` has an agreement
        /// (a share by the upper end of its 95 % interval), and for float models that it quantizes while loading when
        /// `data` names texts.
        min_agreement: Share = Share::percent(98), Allowed::Share;
        /// What happens below it: the model is not written or not served (refuse), it is used and this is said (warn),
        /// or layers stay float, those that cost most first, until the bound holds (fallback). A folder that is
        /// quantized already has no float layers to fall back to: it is then refused.
        on_failure: OnFailure = OnFailure::Refuse, Allowed::OneOf(OnFailure::NAMES);
        /// Texts (.jsonl, .csv or .tsv) on which `octet serve` compares float models that it quantizes while loading
        /// with themselves; empty compares nothing.
        data: String = String::new(), Allowed::Text;
        /// Most texts to compare on, evenly spaced over the file.
        max_texts: usize = 1_000, between(1, 1_000_000);
    }
}

section! {
    /// Comparison of some answers with those of the float original, beside the requests: how much accuracy int8 can have
    /// cost at most, without labels. Off until `float` names a folder.
    pub struct ShadowSettings = "shadow" {
        /// Float folders (or hub ids) that served models were made from, separated by commas. Each is compared with the
        /// models whose `quant.json` names it by digest; `id=path` is for one model, also for one that names no source.
        float: String = String::new(), Allowed::Text;
        /// Share of the answered inputs that is compared, chosen at random.
        rate: Share = Share::percent(1), Allowed::Share;
        /// Share of the time of one CPU that comparisons may take. They have a thread of the lowest priority, and none
        /// begins while requests wait. 0 never compares.
        budget: Share = Share::percent(10), Allowed::Share;
        /// Answers that may wait for a comparison; further ones are not compared, and counted.
        max_queue_inputs: usize = 64, between(1, 100_000);
        /// How much accuracy int8 may cost, as a share: where the bound of 24 hours is above it, the alert
        /// `OctetAccuracyLossBound` fires. Exported beside the bound; the default allows what `quality.min_agreement` does.
        max_loss: Share = Share::percent(2), Allowed::Share;
    }
}

section! {
    /// Labels that come after the answers (`POST /v1/feedback`).
    pub struct FeedbackSettings = "feedback" {
        /// Classified inputs that are remembered for labels, without their texts: about 100 bytes each. The oldest go
        /// first; 0 remembers none.
        max_answers: usize = 65_536, between(0, 100_000_000);
        /// Count labelled answers by predicted and actual label for models with at most this many labels: the square of
        /// it in series. 0 for none.
        confusion_labels: usize = 0, between(0, 50);
    }
}

section! {
    /// Where models named like `org/name` come from. What is not set here is taken from the variables of the Hugging
    /// Face tools; the access token always is (`HF_TOKEN`).
    pub struct HubSettings = "hub" {
        /// Base address of the hub; empty takes `HF_ENDPOINT`, else `https://huggingface.co`.
        endpoint: String = String::new(), Allowed::Text;
        /// Never use the network: only what is already in the cache. `HF_HUB_OFFLINE=1` does the same.
        offline: bool = false, Allowed::Bool;
        /// Folder for downloaded models; empty takes `HF_HUB_CACHE`, else `HF_HOME/hub`, else
        /// `~/.cache/huggingface/hub`.
        cache_dir: String = String::new(), Allowed::Text;
    }
}

section! {
    /// What the server tells about itself.
    pub struct TelemetrySettings = "telemetry" {
        /// Least important events that are logged.
        log_level: LogLevel = LogLevel::Info, Allowed::OneOf(LogLevel::NAMES);
        /// How log lines look. Input text is never logged in any format.
        log_format: LogFormat = LogFormat::Text, Allowed::OneOf(LogFormat::NAMES);
    }
}
