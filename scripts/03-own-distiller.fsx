// A distillation loss of your own beside KD. Run with: dotnet fsi scripts/03-own-distiller.fsx
#load "_load.fsx"

open Ctkd.Fs

// The mean squared difference of the logits: shape [].
let logits =
    Distiller.simple
        "logits"
        (fun input ->
            let difference = input.Student.Logits - input.Teacher.Logits
            Tensor.mean (difference * difference)
        )

let settings = { Settings.defaults with PerClass = 50; Epochs = 5; Milestones = [ 4 ] }
let teacher = Distil.run (Distil.fresh "runs/teacher") { Distil.defaults with Settings = settings }

let own = {
    Distil.defaults with
        Settings = settings
        Distillers = Some [ 0.9, Kd.distiller; 0.1, logits ]
}

Distil.run (Distil.fresh "runs/own-distiller") { own with Teacher = Some(Distil.load teacher.Checkpoint) }
