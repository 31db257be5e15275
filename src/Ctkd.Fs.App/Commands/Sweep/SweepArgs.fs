namespace Ctkd.Fs.App

open Argu

/// The flags of `sweep`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type SweepArgs =
    | [<MainCommand; Unique>] Source of FILE_OR_FOLDER: string
    | Grid of FIELD_AND_VALUES: string
    | Set of FIELD_AND_VALUE: string
    | [<Unique>] Seeds of COUNT: int
    | [<Unique>] Teachers of DIR: string
    | [<Unique>] Scale of SHARE: string
    | [<Unique>] Out of DIR: string
    | [<Unique>] Jobs of COUNT: int
    | [<Unique>] Dry_Run
    | [<Unique>] List
    | [<Unique>] Emit of FORM: string
    | [<Unique>] Task of NUMBER: int
    | [<Unique>] Retry
    | [<Unique>] Json
    | [<Hidden; Unique>] Until_Input_Ends

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Source _ ->
                "a file of JSON in which every field of a run can be a list, with \"seeds\", \"recipe\", \"method\", \"cases\" (fields \
                 that change together), \"teachers\", \"teach\" (fields of the teachers' training), \"baseline\", \"figures\" (drawn when all is done: tsne) and \"about\" beside; or the name \
                 of a paper's table (--list); or the folder of a sweep, to go on with it [none: the runs of --grid and --set]"
            | Grid _ -> "a field with its values: --grid policy=fixed,ctkd-global --grid t=2,4,8 [none]"
            | Set _ -> "a field with one value for all runs: --set epochs=30 --set teacher=resnet20 [none]"
            | Seeds _ -> "each combination with the seeds 1 to COUNT [1, or those of the file]"
            | Teachers _ -> "folder with the weights of teachers by the names of their models [the sweep trains them]"
            | Scale _ -> "a share of the epochs, and of each class's training images: --scale 0.05 [all]"
            | List -> "print the sweeps that come with the program: the tables and figures of the papers [no]"
            | Out _ -> "folder of the sweep [runs/ and the file's name, or runs/sweep]"
            | Jobs _ -> "runs at once, each in a process of its own [1]"
            | Dry_Run -> "train nothing: print the plan, with its time from a few measured steps [no]"
            | Emit _ ->
                "write the plan and train nothing; print a job array for sbatch (slurm), or a line for each run (sh), for GNU parallel [no]"
            | Task _ -> "do this run of the plan alone; its teacher first, where nobody trains it [all]"
            | Retry -> "try runs again that diverged [they are left as they are; other failures are tried again]"
            | Json -> "the result as one JSON object"
            | Until_Input_Ends -> "stop when the standard input ends"
