// A temperature policy of your own, trained with. Run with: dotnet fsi scripts/02-own-policy.fsx
#load "_load.fsx"

open Ctkd.Fs

// Soften what a confident teacher says more: T = 2 + 4 max_c p(c), one temperature per instance.
let byConfidence = {
    Scheduled.fixedAt 4.0 with
        Name = "by-confidence"
        Soften =
            fun _ teacher student ->
                let confidence = Tensor.softmax -1 teacher |> Tensor.maxOver -1
                let t = Tensor.scale 4.0 confidence |> Tensor.addNumber 2.0
                Policy.shared t teacher student
}

let settings = { Settings.defaults with PerClass = 50; Epochs = 10; Milestones = [ 6; 8 ] }
let teacher = Distil.run (Distil.fresh "runs/teacher") { Distil.defaults with Settings = settings }
let own = { Distil.defaults with Settings = settings; Policy = Some byConfidence }
Distil.run (Distil.fresh "runs/by-confidence") { own with Teacher = Some(Distil.load teacher.Checkpoint) }
