// A TorchSharp module of your own as the student: a tiny vision transformer. Run with: dotnet fsi scripts/07-own-student.fsx
#load "_load.fsx"

open Ctkd.Fs
open TorchSharp

type Block(width: int64, heads: int64) as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Block")
    let norm1, norm2 = torch.nn.LayerNorm [| width |], torch.nn.LayerNorm [| width |]
    let split, join = torch.nn.Linear(width, 3L * width), torch.nn.Linear(width, width)
    let up, down = torch.nn.Linear(width, 2L * width), torch.nn.Linear(2L * width, width)
    do this.RegisterComponents()

    override _.forward x =
        let parts =
            split.forward(norm1.forward x).reshape(x.shape[0], x.shape[1], 3L, heads, -1L).permute(2L, 0L, 3L, 1L, 4L)

        let mixed = torch.nn.functional.scaled_dot_product_attention (parts[0L], parts[1L], parts[2L])
        let x = x + join.forward (mixed.transpose(1L, 2L).reshape(x.shape))
        x + down.forward (torch.nn.functional.gelu (up.forward (norm2.forward x)))

type Vit(classes: int) as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Vit")
    let patches = torch.nn.Conv2d(3L, 32L, 2L, stride = 2L)
    let places = torch.nn.Parameter(torch.randn (1L, 16L, 32L) * torch.tensor 0.02f)

    let blocks =
        torch.nn.ModuleList<torch.nn.Module<torch.Tensor, torch.Tensor>>(new Block(32L, 4L), new Block(32L, 4L))

    let head = torch.nn.Linear(32L, int64 classes)
    do this.RegisterComponents()

    override _.forward images =
        let tokens = patches.forward(images).flatten(2L).transpose(1L, 2L) + places
        let seen = blocks |> Seq.fold (fun x block -> block.forward x) tokens
        head.forward (seen.mean [| 1L |])

let settings = {
    Settings.defaults with
        Epochs = 8
        Milestones = [ 6 ]
        Policy = PolicyName.Fixed
}

let teacher = Distil.run (Distil.fresh "runs/vit-teacher") { Distil.defaults with Settings = settings }
let student = Student.ofModule "tiny-vit" 10 (fun () -> new Vit(10))

let taught = {
    Distil.defaults with
        Settings = settings
        Student = Some student
        Teacher = Some(Distil.load teacher.Folder)
}

Distil.run (Distil.fresh "runs/tiny-vit") taught
