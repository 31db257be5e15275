namespace Ctkd.Fs

/// Where a run writes the numbers of its epochs.
[<RequireQualifiedAccess>]
module RunLog =

    /// Returns a function that writes an epoch that has ended, whose sums the state still holds: a line of `metrics.jsonl`, and what
    /// else the settings ask for.
    let writer (s: Settings) (folder: RunDirectory) : TrainState -> EpochMetrics -> Result<unit, Error> =
        let others = [ if List.contains LogName.Tensorboard s.Log then EventLog.writer folder.Events ]

        fun state metrics ->
            (Metrics.append folder.Metrics metrics, others)
            ||> List.fold (fun written write ->
                written |> Result.bind (fun () -> write metrics (EpochSums.temperatures state.Sums))
            )
