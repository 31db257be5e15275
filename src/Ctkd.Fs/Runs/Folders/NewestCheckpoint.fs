namespace Ctkd.Fs

open System
open System.IO

/// The checkpoint from which a run goes on.
[<ReferenceEquality>]
type NewestCheckpoint = {
    Checkpoint: Checkpoint
    /// Why the latest checkpoint, which was passed over, cannot be read; None where it was not.
    Damage: Error option
}

/// Finding the newest whole checkpoint of a run.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module NewestCheckpoint =

    /// Whether the file system lets this user read a file, damaged or not: to a file that is only forbidden, an older
    /// checkpoint is no alternative.
    let private isAllowed (path: string) : bool =
        try
            use _ = File.OpenRead path
            true
        with
        | :? UnauthorizedAccessException -> false
        | :? IOException -> true

    /// <summary>Reads the checkpoint that a path names: the file, which must be whole, or of a run's folder the newest one
    /// that is whole. That is the latest one, or, where that is damaged, the best one.</summary>
    /// <param name="path">A run's folder or one of its checkpoints.</param>
    let read (path: string) : Result<NewestCheckpoint, Error> =
        RunDirectory.checkpointOf path
        |> Result.bind (fun file ->
            let file = Path.GetFullPath file

            match Checkpoint.read file with
            | Ok checkpoint -> Ok { Checkpoint = checkpoint; Damage = None }
            | Error damage when damage.Kind = Damaged && Directory.Exists path && isAllowed file ->
                match RunDirectory.bestBeside file with
                | Some best -> Ok { Checkpoint = best; Damage = Some damage }
                | None -> Error damage
            | Error error -> Error(RunDirectory.offerBest file error)
        )

    /// Makes the checkpoint the latest one of its run, where it is another: what came after it is kept beside with the ending
    /// .old, and a damaged latest one with the ending .damaged. Nothing is lost wherever this stops.
    let takeUp (say: string -> unit) (folder: RunDirectory) (newest: NewestCheckpoint) : Result<unit, Error> =
        let checkpoint = newest.Checkpoint

        if checkpoint.Path = folder.Last then
            Ok()
        else
            Files.read checkpoint.Path
            |> Result.bind (fun bytes ->
                let aside keep files = files |> List.filter File.Exists |> List.map keep

                let kept =
                    match newest.Damage with
                    | None -> aside (Files.keepAside "old") [ folder.Last; folder.Metrics ]
                    | Some damage ->
                        let place = Path.GetFileName checkpoint.Path

                        say
                            $"warning: {damage.What}: the run goes on from {place}, the newest checkpoint that is whole"
                        // The metrics first: without a latest checkpoint, the best one is the newest.
                        let metrics = aside (Files.keepAside "old") [ folder.Metrics ]
                        aside (Files.moveAside "damaged") [ folder.Last ] @ metrics

                let all = String.concat " and " kept
                let rest = if kept.IsEmpty then "" else $"; what came after it is kept in {all}"
                say $"going on from epoch {checkpoint.Info.Epoch}{rest}"
                Files.replace folder.Last (fun stream -> stream.Write(ReadOnlySpan bytes))
            )
