module Ctkd.Fs.Tests.CommandTests

open System
open System.IO
open System.Text.Json.Nodes
open Argu
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Xunit

/// A run of a moment: two epochs of four batches.
let private small = "--per-class 5 --batch 16 --epochs 2"

/// The one line of JSON on the standard output.
let private jsonLine (ended: Ended) : JsonNode =
    Assert.EndsWith("\n", ended.Out)
    Assert.Equal(1, ended.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length)
    JsonNode.Parse ended.Out |> nonNull

let private text (node: JsonNode) (name: string) : string = string node[name]

// ---- help and wrong usage ----

[<Fact>]
let ``help of a command names every flag with what it is when it is not given`` () =
    let flags (parser: ArgumentParser) = parser.GetArgumentCases() |> List.collect _.CommandLineNames.Value

    let withoutDefault = [
        "--weights"
        "--out"
        "--onnx"
        "--data-dir"
        "--resume"
        "--json"
        "--t-scale"
        "--no-torch"
        "--serve"
        "--help"
    ]

    let commands: (string * ArgumentParser) list = [
        "teach", ArgumentParser.Create<TrainArgs>()
        "distill", ArgumentParser.Create<TrainArgs>()
        "eval", ArgumentParser.Create<EvalArgs>()
        "export", ArgumentParser.Create<ExportArgs>()
        "quickstart", ArgumentParser.Create<QuickstartArgs>()
        "models", ArgumentParser.Create<ModelsArgs>()
        "recipes", ArgumentParser.Create<RecipesArgs>()
        "inspect", ArgumentParser.Create<InspectArgs>()
        "convert", ArgumentParser.Create<ConvertArgs>()
        "doctor", ArgumentParser.Create<DoctorArgs>()
        "bench", ArgumentParser.Create<BenchArgs>()
    ]

    for name, parser in commands do
        let help = expect 0 "/" $"{name} --help"
        Assert.Contains("Exit codes: 0 done, 1 failed or diverged, 2 wrong usage, 130", help.Out)
        let options = (help.Out.Split "OPTIONS:")[1]

        for flag in flags parser |> List.except [ "--serve"; "--tf32" ] do
            let at = Text.RegularExpressions.Regex.Match(options, $@"\n    {flag}[ ,\n]").Index
            Assert.True(at > 0, $"{name} --help does not list {flag}")
            let next = options.IndexOf("\n    --", at + 1)
            let entry = options.Substring(at, (if next < 0 then options.Length else next) - at)
            // "[<epoch>...]" stands for a list's values: its brackets hold no default.
            let plain = entry.Replace("[<", "").Replace("...]", "")

            Assert.True(
                (plain.Contains '[' || List.contains flag withoutDefault),
                $"{flag} has no default: {entry}"
            )

[<Fact>]
let ``help and version succeed, and a bare ctkd is wrong usage that shows the commands`` () =
    let help = expect 0 "/" "--help"
    let bare = expect 2 "/" ""

    for command in
        [
            "quickstart"
            "teach"
            "distill"
            "eval"
            "export"
            "models"
            "recipes"
            "inspect"
            "convert"
            "doctor"
            "bench"
            "version"
        ] do
        Assert.Contains($"\n    {command} ", help.Out)
        Assert.Contains($"\n    {command} ", bare.Err)

    Assert.Matches(@"^ctkd \d+\.\d+\.\d+\n$", (expect 0 "/" "version").Out)

/// The libraries that the program loads for a command, as the dynamic linker tells them.
let private loaded (arguments: string) : string =
    inFolder (fun folder ->
        let log = [ "LD_DEBUG", "files"; "LD_DEBUG_OUTPUT", Path.Combine(folder, "loaded") ]
        Assert.Equal(0, (ctkdWith log "/" arguments).Code)
        Directory.GetFiles(folder, "loaded.*") |> Array.map File.ReadAllText |> String.concat "\n"
    )

[<Fact>]
let ``what computes nothing does not wait for libtorch to be loaded`` () =
    for arguments in [ "--help"; "distill --help"; "version"; "models"; "recipes" ] do
        let libraries = loaded arguments
        Assert.Contains("libcoreclr.so", libraries)
        Assert.DoesNotContain("torch", libraries)

    inFolder (fun folder ->
        Assert.Contains(
            "libtorch_cpu.so",
            loaded $"teach --per-class 1 --batch 5 --epochs 1 --out {folder}/a"
        )
    )

[<Fact>]
let ``an unknown command, flag or name is wrong usage with the nearest names`` () =
    let wrong = [
        "evall", "unknown command 'evall'", "eval, "
        "teach --epoch 3", "unknown flag '--epoch'", "--epochs, "
        "eval --wieghts x", "unknown flag '--wieghts'", "--weights, "
        "teach --model resnet21", "unknown model 'resnet21'", "resnet20, "
        "teach --data digit", "unknown data set 'digit'", "digits, "
        "teach --precision f64", "unknown precision 'f64'", "f32, "
        "teach --device cpuu", "unknown device 'cpuu'", "cpu, "
        $"distill --weights {Runs.teacher.Value} --policy ctkd-globl",
        "unknown policy 'ctkd-globl'",
        "ctkd-global, "
    ]

    inFolder (fun folder ->
        for arguments, what, nearest in wrong do
            let ended = expect 2 folder arguments
            Assert.Equal("", ended.Out)
            Assert.StartsWith($"error: {what}", ended.Err)
            Assert.Contains("did you mean one of: " + nearest, ended.Err)

        Assert.Empty(Directory.GetFileSystemEntries folder)
    )

[<Fact>]
let ``values that cannot be are wrong usage, with the flag, the bound and what to do`` () =
    let wrong = [
        "teach --lr 0", "lr must be finite and > 0, got 0"
        "teach --lr nan", "lr must be finite and > 0, got NaN"
        "teach --lr -1", "lr must be finite and > 0, got -1"
        "teach --lr infinity", "lr must be finite and > 0, got Infinity"
        $"distill --weights {Runs.teacher.Value} --t 0", "t must be finite and > 0, got 0"
        "teach --t 4", "teach has no teacher"
        "teach --batch 0", "batch must be at least 1, got 0"
        "teach --batch 4000", "batch is 4000, but there are only 3823 training images"
        "teach --epochs 1e3", "--epochs"
        "teach --lr 0 --batch 0", "2 settings are wrong"
        "teach --milestones 3 2", "milestones must be epochs from 1 on in rising order, got 3, 2"
        "teach --mean 0.5", "mean and std must be given together"
        "teach --weights x", "teach has no teacher"
        "distill", "distill needs a teacher's weights"
        "eval", "eval needs weights"
        "export", "export needs weights"
        "export --weights x", "export needs a file to write"
        "bench overhead", "unknown benchmark 'overhead'"
        "bench --part steps", "unknown part 'steps'"
        "bench --pairs 2", "pairs no fewer than starts: got 2, 4 and 3"
        "bench overheads --steps 0", "got 60, 0 and 3"
        "bench scaling --pairs 0", "got 0, 1 and 1"
        "bench scaling --precision f64", "unknown precision 'f64'"
        "models --classes 1", "classes must be at least 2"
        "teach --lr 0.1 --lr 0.2", "more than once"
    ]

    isWrongUsage wrong

// ---- teach, eval, distill ----

[<Fact>]
let ``teach, eval and distill work on each other's files`` () =
    inFolder (fun folder ->
        let taught = jsonLine (expect 0 folder $"teach {small} --model resnet14 --out a --json")
        Assert.Equal(("finished", Path.Combine(folder, "a")), (text taught "ending", text taught "folder"))

        for name in
            [ "settings.json"; "metrics.jsonl"; "last.safetensors"; "best.safetensors"; "report.html" ] do
            Assert.True(File.Exists(Path.Combine(folder, "a", name)), name)

        let measured = jsonLine (expect 0 folder "eval --weights a --json")
        Assert.Equal(("resnet14", "1797"), (text measured "model", text measured "images"))
        Assert.Equal(text taught "top1", text measured "top1")
        let plain = expect 0 folder "eval --weights a/last.safetensors --model resnet14"
        let top1 = float (text taught "top1")
        let percent = $"%.2f{top1}"

        Assert.Matches(
            $@"^model +images +top-1 %% +top-5 %% +nll +ece %%\nresnet14 +1797 +{percent} ",
            plain.Out
        )

        Assert.Contains(
            "are those of resnet14, not of resnet8",
            (expect 1 folder "eval --weights a --model resnet8").Err
        )

        let distilled = expect 0 folder $"distill {small} --weights a --policy ctkd-instance --out b"
        Assert.Contains($"teacher resnet14: {percent} %% top-1", distilled.Out)

        Assert.Matches(
            @"\ndistill  epoch 2/2  loss \d+\.\d{4}  T \d+\.\d\d  lambda \d\.\d{3}  top-1 ",
            distilled.Out
        )

        Assert.Contains($"checkpoint {folder}/b/last.safetensors", distilled.Out)
    )

[<Fact>]
let ``with --json the standard output holds the result and nothing else, also of models, doctor and errors``
    ()
    =
    inFolder (fun folder ->
        let models = jsonLine (expect 0 folder "models --json --classes 10")
        Assert.Equal<string seq>(Zoo.names, models.AsObject() |> Seq.map _.Key)
        let doctor = ctkd folder "doctor --json"
        Assert.True((jsonLine doctor).AsArray().Count > 5)
        let taught = expect 0 folder $"teach {small} --out a --json"
        Assert.Equal("finished", text (jsonLine taught) "ending")
        Assert.Contains("teach  epoch 2/2", taught.Err)
        Assert.Equal("", (expect 1 folder $"teach --resume none --json").Out)
        Assert.Equal("", (expect 2 folder $"teach --lr 0 --json").Out)
    )

[<Fact>]
let ``models prints the counts of the zoo, and the layers of one model`` () =
    let all = jsonLine (expect 0 "/" "models --json")
    let mobile = nonNull all["imagenet/MobileNetV1"]
    Assert.Equal(4_231_976L, (nonNull mobile["params"]).GetValue<int64>())
    Assert.Equal(568_740_352L, (nonNull mobile["macs_total"]).GetValue<int64>())
    Assert.Equal(224, (nonNull mobile["input_size"]).GetValue<int>())
    Assert.Null mobile["layers"]

    let one = jsonLine (expect 0 "/" "models wrn_16_2 --policy ctkd-instance --json")
    let wrn = nonNull one["wrn_16_2"]
    Assert.Equal(102_912L, (nonNull wrn["macs_temperature"]).GetValue<int64>())
    let layers = (nonNull wrn["layers"]).AsArray() |> Seq.map nonNull |> List.ofSeq
    let total (field: string) = layers |> List.sumBy (fun layer -> (nonNull layer[field]).GetValue<int64>())
    Assert.Equal((nonNull wrn["params"]).GetValue<int64>(), total "params")
    Assert.Equal((nonNull wrn["macs_total"]).GetValue<int64>(), total "macs")

    let printed = expect 0 "/" "models resnet20 --policy ctkd-instance"
    Assert.Contains("41.62", printed.Out)
    Assert.Contains("41.72", printed.Out)
    Assert.Contains("layer3.0.downsample.0", printed.Out)
    Assert.Contains("did you mean one of: resnet20", (expect 2 "/" "models resnet21").Err)
    Assert.Contains("at least 4 x 4", (expect 2 "/" "models resnet20 --size 2").Err)
    Assert.Contains("size must be from 1 to 4096", (expect 2 "/" "models --size 0").Err)
    let small = (jsonLine (expect 0 "/" "models --size 8 --json")).AsObject() |> Seq.map _.Key |> Set.ofSeq
    Assert.Contains("resnet20", small)
    Assert.DoesNotContain("MobileNetV2", small)

[<Fact>]
let ``a number has a decimal point, whatever the user's language is`` () =
    inFolder (fun folder ->
        let german = [ "LC_ALL", "de_DE.UTF-8"; "LANG", "de_DE.UTF-8" ]

        let ended =
            ctkdWith german folder $"teach {small} --lr 0.05 --mean 0.5 0.25 0.125 --std 1.5 1.5 1.5 --out a"

        Assert.Equal(0, ended.Code)
        let json = File.ReadAllText(Path.Combine(folder, "a", "settings.json"))
        let settings = Ctkd.Fs.Json.read<Settings> "" json |> Error.orRaise
        Assert.Equal(0.05, settings.LearningRate)
        Assert.Equal<float list>([ 0.5; 0.25; 0.125 ], settings.Mean)
        Assert.Matches(@"loss \d+\.\d{4}  top-1 \d+\.\d\d %", ended.Out)
    )

// ---- doctor ----

[<Fact>]
let ``doctor finds the engine and what mends it`` () =
    let doctor = ctkdWith [ "OMP_NUM_THREADS", "" ] "/" "doctor"
    Assert.Matches(@"\nengine +libtorch \d+\.\d+", doctor.Out)

    for name in [ "operators"; "threads"; "BLAS"; "oneDNN"; "CUDA devices"; "processor" ] do
        Assert.Contains($"\n{name} ", doctor.Out)

    let json = (ctkdWith [ "OMP_NUM_THREADS", "" ] "/" "doctor --json").Out
    let findings = Ctkd.Fs.Json.read<Finding list> "" json |> Error.orRaise
    Assert.Equal((if List.exists _.Mend.IsSome findings then 1 else 0), doctor.Code)

    let none = ctkdWith [ "CTKD_NATIVE", "/none.so" ] "/" "doctor"
    Assert.Equal(1, none.Code)
    Assert.Matches(@"\nengine .*/none\.so.*dotnet fsi build\.fsx native", none.Out)

[<Fact>]
let ``doctor trains on the device that it is asked about, and is told when there is none`` () =
    let findings = (ctkdWith [ "OMP_NUM_THREADS", "" ] "/" "doctor --device cpu --json").Out
    let findings = Ctkd.Fs.Json.read<Finding list> "" findings |> Error.orRaise
    let steps = findings |> List.filter _.Name.StartsWith("step: ")
    Assert.True(steps.Length > 4)
    Assert.All(steps, fun step -> Assert.Equal(None, step.Mend))
    Assert.All(steps, fun step -> Assert.Contains("10 steps the same to the bit", step.Value))
    Assert.Contains("device 'cuda:9'", (expect 2 "/" "doctor --device cuda:9").Err)
    Assert.Contains("device 'cuda:9'", (expect 2 "/" "bench --device cuda:9").Err)

[<Fact>]
let ``without libtorch a command fails with the one that mends it`` () =
    inFolder (fun folder ->
        let garbage = Path.Combine(folder, "garbage.so")
        File.WriteAllText(garbage, "no library")
        let copy = Directory.CreateDirectory(Path.Combine(folder, "copy")).FullName

        for file in Directory.GetFiles programFolder do
            if Path.GetFileName file <> "libctkd_torch.so" then
                File.Copy(file, Path.Combine(copy, string (Path.GetFileName file)))

        let command arguments =
            [ "dotnet"; Path.Combine(copy, "ctkd.dll") ] @ List.ofArray ((arguments: string).Split ' ')

        let failures = [
            for arguments in
                [
                    $"teach {small}"
                    "quickstart"
                    $"distill {small} --weights {Runs.teacher.Value}"
                    $"eval --weights {Runs.teacher.Value}"
                ] do
                "libctkd_torch.so", runCommand folder [] (command arguments)

            "/none.so", ctkdWith [ "CTKD_NATIVE", "/none.so" ] folder $"teach {small}"
            "garbage.so", ctkdWith [ "CTKD_NATIVE", garbage ] folder $"teach {small}"
        ]

        for where, ended in failures do
            Assert.Equal(1, ended.Code)
            Assert.Contains("error: the tensor engine is not ready", ended.Err)
            Assert.Contains(where, ended.Err)
            Assert.Contains("dotnet fsi build.fsx native", ended.Err)
    )
