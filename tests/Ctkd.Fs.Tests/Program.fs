/// The runner: Expecto's arguments, and before them `--peer` or `--part` and a part of the tests' names.
module Ctkd.Fs.Tests.Program

open System
open Expecto

let private unnamed (tests: Test list) : Test = TestList(tests, Normal)

/// Programs that are started, and whole runs: with the machine's number of threads.
let private runs: Test list = [
    NativesTests.tests
    HeapTests.tests
    TeacherFileTests.tests
    RunTests.tests
    RunFaultTests.tests
    RunResumeTests.tests
    RunOptionsTests.tests
    BenchTests.tests
    CommandTests.tests
    CommandNumberTests.tests
    ReferenceTests.tests
    CommandRecipeTests.tests
    CommandPredictTests.tests
    CommandRunTests.tests
    CommandKillTests.tests
    CommandSweepTests.tests
    CommandWatchTests.tests
    CommandOutputTests.tests
    CommandCacheTests.tests
    CommandWeightsTests.tests
    CommandWeightsFileTests.tests
    CommandDataTests.tests
    CommandHostileTests.tests
    CommandPlotTests.tests
    CommandReportTests.tests
    PhotoTourTests.tests
    TextTableTests.tests
    OneAtATimeTests.tests
    TwoProcessesTests.tests
    DistilTests.tests
    CSharpTests.tests
    DocsTests.tests
]

/// All others: with one thread, which small operators are fastest on.
let private computations: Test list = [
    TensorTests.tests
    EngineTests.tests
    BlocksTests.tests
    FusedNormTests.tests
    FusedNormGraphTests.tests
    AutogradTests.tests
    RngTests.tests
    TreeTests.tests
    ScheduleTests.tests
    LossTests.tests
    TemperatureTests.tests
    TemperaturePairTests.tests
    AdversaryTests.tests
    DrawsTests.tests
    CropTests.tests
    DecoderTests.tests
    PhotoLoaderTests.tests
    PhotoFolderTests.tests
    PhotoLayoutTests.tests
    PhotoPackTests.tests
    PhotoCheckTests.tests
    DkdTests.tests
    PktTests.tests
    SpTests.tests
    RkdTests.tests
    AtTests.tests
    VidTests.tests
    SrrlTests.tests
    FitNetTests.tests
    CrdTests.tests
    DistillerTests.tests
    LayersTests.tests
    FusionTests.tests
    ModelTests.tests
    ZooTests.tests
    OptimiserTests.tests
    AdamWTests.tests
    WeightAverageTests.tests
    MixupTests.tests
    LabelSmoothingTests.tests
    AugmentTests.tests
    SpreadTests.tests
    SaturationTests.tests
    EpochSumsTests.tests
    ReportedTests.tests
    TrainTests.tests
    TrainStepTests.tests
    TrainFaultTests.tests
    EvaluateTests.tests
    FilesTests.tests
    SafetensorsTests.tests
    PickleTests.tests
    TorchFileTests.tests
    TorchFaultTests.tests
    TorchLayoutFaultTests.tests
    TorchFuzzTests.tests
    TorchObjectTests.tests
    TeacherTests.tests
    StudentTests.tests
    StudentStartTests.tests
    OnnxPreprocessTests.tests
    ArchiveTests.tests
    StateDictTests.tests
    CifarTests.tests
    DigitsTests.tests
    DatasetsTests.tests
    SplitTests.tests
    CellsTests.tests
    ChartTests.tests
    TsneTests.tests
    PicturesTests.tests
    PaletteTests.tests
    ReportTests.tests
    RlkdSettingsTests.tests
    NumbersTests.tests
    FieldTests.tests
    SettingsTests.tests
    SettingsOptionsTests.tests
    RecipesTests.tests
    ResolveTests.tests
    WeightsTests.tests
    WeightsFileTests.tests
    IdentifyTests.tests
    WeightsKeyTests.tests
    WeightsFitTests.tests
    CheckpointTests.tests
    TrainDistillerTests.tests
    TrainConnectorTests.tests
    RecordedStepsTests.tests
    TrainOptionsTests.tests
    TrainAgentTests.tests
    MetricsTests.tests
    TrainTemperatureTests.tests
    RunDirectoryTests.tests
    LoadedModelTests.tests
    TeacherCacheTests.tests
    TeacherOutputsTests.tests
    SameAccuracyTests.tests
    EventLogTests.tests
    RunMethodTests.tests
    RunDamageTests.tests
    RunDivergenceTests.tests
    RunWarningTests.tests
    RunPhotosTests.tests
    RunUnlabelledTests.tests
    RunValidationTests.tests
    RunReportTests.tests
    PageTests.tests
    SweepTests.tests
    SweepPlanTests.tests
    ShippedSweepsTests.tests
    CostTests.tests
    ReproductionsTests.tests
    SweepRunTests.tests
    WatchedRunTests.tests
    StepTimeTests.tests
    StatisticsTests.tests
    RunRecordTests.tests
    RunOutcomeTests.tests
    GroupsTests.tests
    ComparisonTests.tests
    EstimateTests.tests
    QuickstartTests.tests
    FoldBatchNormTests.tests
    OnnxFileTests.tests
    OnnxRuntimeTests.tests
    ExportTests.tests
    GoldenModelTests.tests
    GoldenLossTests.tests
    GoldenTrajectoryTests.tests
    GoldenCoverageTests.tests
    RlkdLossTests.tests
    RlkdConfigTests.tests
    ConfidenceTests.tests
    PackTests.tests
    ActorTests.tests
    RewardTests.tests
    AdvantageTests.tests
    PpoTests.tests
    CorrectorTests.tests
    UpdaterTests.tests
    ExplorationTests.tests
    RlkdReportTests.tests
    RlkdLearningTests.tests
    RlkdTests.tests
]

/// The two parts of the suite, of about the same time. Threads that wait busily for one another would keep the other part
/// from the processors.
let private parts: (TwoProcesses.Part * Test list) list = [
    { Name = "runs"; Variables = [ "GOMP_SPINCOUNT", "1000" ] }, runs
    { Name = "computations"; Variables = [ "OMP_NUM_THREADS", "1" ] }, computations
]

/// libtorch uses every processor for one operator, and its live tensors, threads and generators are of the whole
/// process: two tests at once in one process would be slower and would disturb each other.
let private sequenced (tests: Test list) : Test = testSequenced (unnamed tests)

/// Comparisons with PyTorch itself, and pages in Chromium, which must be installed.
let private peer: Test =
    testSequenced (
        testList "Peer" [
            OptimiserTests.peer
            LoadedModelTests.peer
            TorchAgreementTests.peer
            PyTorchFilesTests.peer
            PhotoPeerTests.peer
            PageTests.peer
        ]
    )

/// The tests with the text in their full name.
let private named (text: string) : Test -> Test =
    let isMeant (names: string list) = (String.concat "." names).Contains(text, StringComparison.OrdinalIgnoreCase)

    Test.filter "." isMeant

let private runTests (arguments: string[]) : int =
    let tests, arguments =
        match List.ofArray arguments with
        | "--peer" :: rest -> peer, rest
        | "--part" :: name :: rest ->
            sequenced (parts |> List.filter (fun (part, _) -> part.Name = name) |> List.collect snd), rest
        | all -> sequenced (List.collect snd parts), all

    let tests, arguments =
        match arguments with
        | name :: rest when not (name.StartsWith '-') -> named name tests, rest
        | all -> tests, all

    let mutable summary = None
    let keep = Append_Summary_Handler(SummaryHandler(fun run -> summary <- Some run))
    let code = runTestsWithCLIArgs [ keep ] (Array.ofList arguments) (OneThread.test tests)

    match summary with
    | None -> code
    | Some run ->
        let failed = run.failed.Length + run.errored.Length
        printfn "%d passed, %d failed" run.passed.Length failed

        if run.passed.Length + failed = 0 then
            eprintfn "error: no test has run\n  next: a part of a test's name, as --list-tests shows them"
            1
        else
            code

[<EntryPoint>]
let main (arguments: string[]) : int =
    match arguments with
    // A child of the heap's tests: it ends in one of several ways.
    | [| "--ending"; how |] -> HeapTests.ending how
    | arguments when TwoProcesses.isMeant (List.ofArray arguments) ->
        TwoProcesses.run (List.map fst parts) (List.ofArray arguments)
    | arguments ->
        Folders.inMemory ()
        OneThread.around (fun () -> runTests arguments)
