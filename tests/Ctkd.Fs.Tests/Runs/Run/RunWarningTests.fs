module Ctkd.Fs.Tests.RunWarningTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Runs

/// An adversary so strong that T is at a bound after an epoch.
let private strong: Lazy<Settings> =
    lazy
        {
            taught "ctkd-global" small with
                Epochs = 4
                Milestones = [ 4 ]
                CurriculumStart = 1e5
                CurriculumStop = 1e5
        }

/// Hooks that collect the warnings of a saturated temperature.
let private listening (hooks: Hooks) : ResizeArray<string> * Hooks =
    let said = ResizeArray<string>()
    let say (text: string) = if text.Contains "saturated" then said.Add text
    said, { hooks with Say = say }

let tests =
    testList "RunWarning" [
        test "a run whose temperature saturates says so once, and its metrics and report too" {
            inFolder (fun folder ->
                let said, hooks = listening Hooks.none
                let summary = Run.start hooks (run folder) strong.Value |> Error.orRaise
                let text = Must.single said
                Must.startWith "warning: the learned temperature is saturated at the " text
                let warnings = summary.Epochs |> List.choose _.Warning
                Must.equal [ text.Substring "warning: ".Length ] warnings
                Must.equal 1 ((RunReport.warnings [ "run", summary ]).Length)
            )
        }

        test "a run that goes on does not say it again, and records what the uninterrupted one does" {
            inFolder (fun folder ->
                let whole = Path.Combine(folder, "whole")
                finish whole strong.Value |> ignore
                // Ten batches: in the middle of the third epoch.
                Run.start (stopAfter 10) (run folder) strong.Value |> Error.orRaise |> ignore
                let said, hooks = listening Hooks.none
                Run.resume hooks (run folder) |> Error.orRaise |> ignore
                Must.beEmpty said
                Must.equal (lines whole) (lines (run folder))
            )
        }

        test "a run whose temperature moves freely says nothing" {
            inFolder (fun folder ->
                for policy in [ "ctkd-global"; "fixed" ] do
                    let said, hooks = listening Hooks.none

                    Run.start hooks (Path.Combine(folder, policy)) (taught policy small) |> Error.orRaise |> ignore

                    Must.beEmpty said
            )
        }
    ]
