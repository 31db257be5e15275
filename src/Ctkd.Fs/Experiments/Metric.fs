namespace Ctkd.Fs

/// The number of a run that is compared.
[<RequireQualifiedAccess>]
type Metric =
    | Last
    | Best
    | BestVal
    | Top5
    | Loss

/// What the numbers mean, and where they come from.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Metric =

    /// The number of a run; None where the run has none.
    let value (metric: Metric) (run: RunOutcome) : float option =
        match metric with
        | Metric.Last -> run.Last |> Option.map _.Top1
        | Metric.Best -> RunOutcome.bestOnTest run |> Option.map _.Top1
        | Metric.BestVal -> RunOutcome.bestOnValidation run |> Option.map _.Top1
        | Metric.Top5 -> run.Last |> Option.map _.Top5
        | Metric.Loss -> run.Last |> Option.map _.TestLoss

    /// The title of a column of it, with its unit.
    let title (metric: Metric) : string =
        match metric with
        | Metric.Last -> "top-1 %"
        | Metric.Best -> "best on test %"
        | Metric.BestVal -> "best on validation %"
        | Metric.Top5 -> "top-5 %"
        | Metric.Loss -> "test loss"

    /// A sentence that says what it is.
    let meaning (metric: Metric) : string =
        match metric with
        | Metric.Last -> "top-1 on the test images after the last epoch, in percent"
        | Metric.Best ->
            "top-1 on the test images in the best epoch, in percent; the epoch is chosen on the test images, so the number \
             is optimistic"
        | Metric.BestVal -> "top-1 on the test images in the epoch that is best on the validation images, in percent"
        | Metric.Top5 -> "top-5 on the test images after the last epoch, in percent"
        | Metric.Loss -> "cross entropy on the test images after the last epoch, in nats; lower is better"

    /// Decimals that tables show.
    let digits (metric: Metric) : int = if metric = Metric.Loss then 4 else 2

    /// The number that a recipe's source publishes beside it.
    let published (metric: Metric) (recipe: Recipe) : float option =
        match metric with
        | Metric.Last
        | Metric.Best
        | Metric.BestVal -> recipe.Top1
        | Metric.Top5 -> recipe.Top5
        | Metric.Loss -> None
