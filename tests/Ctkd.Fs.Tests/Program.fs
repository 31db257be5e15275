/// The runner: Expecto's arguments, and before them `--peer` and a part of the tests' names.
module Ctkd.Fs.Tests.Program

open System
open Expecto

let private unnamed (tests: Test list) : Test = TestList(tests, Normal)

/// libtorch uses every processor for one operator, and its live tensors, threads and generators are of the whole
/// process: two tests at once would be slower and would disturb each other.
let private tests: Test =
    testSequenced (
        unnamed [
            TensorTests.tests
            EngineTests.tests
            NativesTests.tests
            BlocksTests.tests
            HeapTests.tests
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
            TeacherFileTests.tests
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
            ReportedTests.tests
            TrainTemperatureTests.tests
            RunDirectoryTests.tests
            LoadedModelTests.tests
            TeacherCacheTests.tests
            TeacherOutputsTests.tests
            SameAccuracyTests.tests
            EventLogTests.tests
            RunTests.tests
            RunMethodTests.tests
            RunFaultTests.tests
            RunResumeTests.tests
            RunDamageTests.tests
            RunDivergenceTests.tests
            RunWarningTests.tests
            RunOptionsTests.tests
            RunPhotosTests.tests
            RunUnlabelledTests.tests
            RunValidationTests.tests
            RunReportTests.tests
            PageTests.tests
            SweepTests.tests
            SweepPlanTests.tests
            ShippedSweepsTests.tests
            SweepRunTests.tests
            WatchedRunTests.tests
            StepTimeTests.tests
            StatisticsTests.tests
            RunRecordTests.tests
            RunOutcomeTests.tests
            GroupsTests.tests
            ComparisonTests.tests
            CostTests.tests
            EstimateTests.tests
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
            ReproductionsTests.tests
            PhotoTourTests.tests
            QuickstartTests.tests
            TextTableTests.tests
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
            OneAtATimeTests.tests
            DistilTests.tests
            CSharpTests.tests
            DocsTests.tests
        ]
    )

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
        | all -> tests, all

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
    | arguments ->
        Folders.inMemory ()
        OneThread.around (fun () -> runTests arguments)
