namespace Ctkd.Fs.App

open Ctkd.Fs

/// A field that tells groups apart, with its value.
type GroupFieldJson = { Field: string; Value: string }

/// A seed with its number.
type SeedJson = { Seed: int; Value: float }

/// A group beside its baseline.
type VersusJson = {
    Baseline: string
    Pairs: int
    Paired: bool
    Difference: float
    Interval: Interval option
    Test: TTest option
    /// p with Holm's adjustment.
    Adjusted: float option
    Published: float option
}

/// What a group costs.
type CostJson = {
    /// Multiply-accumulates of one image in a training step: student and policy's network; null where they are not known.
    Macs: int64 option
    /// Those of the policy's network among them.
    PolicyMacs: int64 option
    /// Whole epochs, seconds of training one, and their standard deviation.
    Epochs: int
    EpochSeconds: float option
    EpochSecondsDeviation: float option
}

/// A group with its numbers.
type GroupJson = {
    Group: string
    Fields: GroupFieldJson list
    N: int
    Mean: float option
    Deviation: float option
    Interval: Interval option
    Values: SeedJson list
    Published: PublishedNumber option
    Versus: VersusJson option
    /// Null without --cost.
    Cost: CostJson option
    Runs: string list
}

/// A run with its numbers.
type RunJson = {
    Run: string
    Folder: string
    Seed: int
    /// whole, stopped-early or unfinished.
    Progress: string
    Epochs: int
    Top1: float option
    Top5: float option
    TestLoss: float option
    /// Chosen on the test images.
    BestOnTest: float option
    BestOnTestEpoch: int option
    BestOnValidation: float option
    BestOnValidationEpoch: int option
    T: float option
    Seconds: float
    ImagesPerSecond: float option
    Record: RunRecord option
}

/// What `report --format json` prints.
type ReportJson = {
    Metric: string
    Level: float
    /// Comparisons with a test.
    Tests: int
    Groups: GroupJson list
    Runs: RunJson list
    Unfinished: string list
    Teachers: string list
    Notes: string list
    Warnings: string list
}

module ReportJson =

    let private versus (v: Versus) : VersusJson = {
        Baseline = v.Baseline
        Pairs = v.Pairs
        Paired = v.IsPaired
        Difference = v.Mean
        Interval = v.Difference |> Option.map _.Interval
        Test = v.Difference |> Option.bind _.Test
        Adjusted = v.Adjusted
        Published = v.Published
    }

    let private cost (c: Cost) : CostJson =
        let macs = Result.toOption c.Macs

        {
            Macs = macs |> Option.map _.Total
            PolicyMacs = macs |> Option.map _.Policy
            Epochs = c.Epochs
            EpochSeconds = c.Seconds
            EpochSecondsDeviation = c.Deviation
        }

    let private group (g: GroupResult) : GroupJson = {
        Group = g.Group.Name
        Fields = [ for field, value in g.Group.Fields -> { Field = field; Value = value } ]
        N = g.Values.Length
        Mean = g.Sample |> Option.map _.Mean
        Deviation = g.Sample |> Option.bind _.Deviation
        Interval = g.Sample |> Option.bind _.Interval
        Values = [ for seed, value in g.Values -> { Seed = seed; Value = value } ]
        Published = g.Published
        Versus = g.Versus |> Option.map versus
        Cost = g.Cost |> Option.map cost
        Runs = g.Group.Runs |> List.map _.Name
    }

    let private run (r: RunOutcome) : RunJson =
        let onTest, onValidation = RunOutcome.bestOnTest r, RunOutcome.bestOnValidation r

        {
            Run = r.Name
            Folder = r.Folder
            Seed = r.Settings.Seed
            Progress = Names.name r.Progress
            Epochs = r.Last |> Option.map _.Epoch |> Option.defaultValue 0
            Top1 = r.Last |> Option.map _.Top1
            Top5 = r.Last |> Option.map _.Top5
            TestLoss = r.Last |> Option.map _.TestLoss
            BestOnTest = onTest |> Option.map _.Top1
            BestOnTestEpoch = onTest |> Option.map _.Epoch
            BestOnValidation = onValidation |> Option.map _.Top1
            BestOnValidationEpoch = onValidation |> Option.map _.Epoch
            T = r.Last |> Option.bind _.T
            Seconds = r.Seconds
            ImagesPerSecond = r.ImagesPerSecond
            Record = r.Record
        }

    /// Everything of a comparison.
    let ofComparison (c: Comparison) : ReportJson = {
        Metric = Names.name c.Options.Metric
        Level = c.Options.Level
        Tests = c.Tests
        Groups = c.Groups |> List.map group
        Runs = ComparisonReport.runs c |> List.map run
        Unfinished = c.Unfinished |> List.map _.Name
        Teachers = c.Teachers |> List.map _.Name
        Notes = c.Notes
        Warnings = c.Warnings
    }
