namespace Ctkd.Fs

/// What a reader should know of runs that are compared: nothing of it is refused.
[<RequireQualifiedAccess>]
module internal Cautions =

    let private short (hash: string) : string = hash.Substring(0, min 8 hash.Length)

    let private ofSessions (value: RunSession -> string) (run: RunOutcome) : string list =
        run.Record |> Option.map (_.Sessions >> List.map value) |> Option.defaultValue []

    /// What should be the same, and what follows where it is not; the values of a run where they are known.
    let private aspects: (string * string * (RunOutcome -> string list)) list = [
        "teachers",
        "the difference may be theirs",
        (fun run ->
            run.Record |> Option.bind _.Teacher |> Option.map (fun teacher -> short teacher.Hash) |> Option.toList
        )
        "data",
        "the images differ, or their order",
        (fun run -> run.Record |> Option.map (fun record -> short record.DataHash) |> Option.toList)
        "weights that the student starts from",
        "the difference may be theirs",
        (fun run -> if run.Settings.StudentHash = "" then [] else [ short run.Settings.StudentHash ])
        "versions of ctkd", "they may compute differently", ofSessions _.Ctkd
        "versions of libtorch", "the last digits differ", ofSessions _.Libtorch
        "machines",
        "their times are not comparable, and the last digits differ",
        ofSessions (fun session -> String.concat ", " (session.Processor :: session.Gpus))
        "devices", "their times are not comparable, and the last digits differ", ofSessions _.Device
        "precisions", "the last digits differ, or more", (fun run -> [ Names.name run.Settings.Precision ])
        "uses of TF32",
        "products on a GPU have other digits",
        (fun run ->
            if run.Settings.Device = "cpu" then
                []
            else
                [ (if run.Settings.Tf32 then "on" else "off") ]
        )
    ]

    /// What differs within sets of runs that are compared; each set is named by its group.
    let differences (sets: (string * RunOutcome list) list) : string list = [
        for what, consequence, values in aspects do
            let found =
                sets
                |> List.map (fun (name, runs) -> name, runs |> List.collect values |> List.distinct)
                |> List.filter (fun (_, values) -> values.Length > 1)

            if not found.IsEmpty then
                let values = found |> List.collect snd |> List.distinct |> List.truncate 4 |> String.concat "; "

                let where =
                    if found.Length = sets.Length then
                        ""
                    else
                        " in " + (found |> List.map fst |> String.concat "; ")

                $"different {what}{where} ({values}): {consequence}"
    ]

    /// Runs of one seed within a group: the first counts.
    let repeated (group: RunGroup) : string list = [
        for seed, runs in group.Runs |> List.groupBy _.Settings.Seed do
            if runs.Length > 1 then
                let names = runs |> List.map _.Name |> String.concat ", "
                $"{group.Name} has seed {seed} {runs.Length} times, and the first counts: {names}"
    ]

    /// Runs without a record, whose teacher, data and machine are not known.
    let unrecorded (runs: RunOutcome list) : string list =
        match runs |> List.filter _.Record.IsNone with
        | [] -> []
        | unknown -> [
            $"{unknown.Length} of {runs.Length} runs have no run.json, as those of earlier versions: whether their teacher, data and machine are the same is not known"
          ]
